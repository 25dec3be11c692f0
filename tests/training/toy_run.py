"""A small training run: a module for the tests, and a script they kill.

    python toy_run.py WORKDIR NUM_STEPS [KILL]

KILL names a moment at which the process sends itself SIGKILL, or SIGTERM.
"""

import functools
import os
import signal
import sys
import threading
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import training

BATCH, FEATURES = 16, 8
EXPERIMENT = {"name": "toy", "optimizer": {"lr": 0.001}, "num_steps": 0}


class Net(nn.Module):
  """Two kernels are large enough to be split over `fsdp`."""

  @nn.compact
  def __call__(self, x, deterministic=True):
    x = nn.relu(nn.Dense(256)(x))
    x = nn.relu(nn.Dense(256)(x))
    x = nn.Dropout(0.2)(x, deterministic=deterministic)
    x = nn.relu(nn.Dense(512)(x))
    return nn.Dense(1)(x)


class Batches:
  """Batch number i is drawn from seed i; a process gets its share of it."""

  def __init__(self):
    self.i = 0

  def __next__(self):
    rng = np.random.default_rng(self.i)
    self.i += 1
    x = rng.standard_normal((BATCH, FEATURES), np.float32)
    y = np.sin(x.sum(axis=1, keepdims=True))
    share = BATCH // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    return {"x": x[mine], "y": y[mine]}

  def get_state(self):
    return {"i": self.i}

  def set_state(self, state):
    self.i = state["i"]


def loss_fn(params, key, batch):
  noise_key, dropout_key = jax.random.split(key)
  x = batch["x"] + 0.1 * jax.random.normal(noise_key, batch["x"].shape)
  rngs = {"dropout": dropout_key}
  y = Net().apply({"params": params}, x, deterministic=False, rngs=rngs)
  error = y - batch["y"]
  return jnp.mean(error**2), {"mean_error": jnp.mean(error)}


OPTIMIZER = training.adam(0.001, warmup_steps=3, clip_norm=1.0)


@functools.cache
def initial_state():
  params_key, key = jax.random.split(jax.random.key(0))
  params = Net().init(params_key, jnp.zeros((1, FEATURES)))["params"]
  return training.init_state(params, OPTIMIZER, key)


@functools.cache
def step_on(mesh):
  """The train step; cached, because compiling takes most of a test's time."""
  decay = training.constant_ema(0.9)
  return training.make_train_step(loss_fn, OPTIMIZER, decay, mesh)


def make(mesh):
  """(state on the mesh, train step) of the toy experiment."""
  return training.shard_state(mesh, initial_state()), step_on(mesh)


def losses(mesh, num_steps):
  """(state, losses) after a short run without files."""
  state, train_step = make(mesh)
  batches, found = Batches(), []
  for _ in range(num_steps):
    batch = training.shard_batch(mesh, next(batches))
    state, metrics = train_step(state, batch)
    found.append(metrics["loss"])
  return state, np.array(found)


def main(workdir, num_steps, moment=""):
  training.initialize_distributed()
  mesh = training.make_mesh()
  state, train_step = make(mesh)
  batches = Batches()
  experiment = {**EXPERIMENT, "num_steps": num_steps}
  with (
    training.stop_on_sigterm() as stop,
    training.Checkpoints(
      workdir / "checkpoints", experiment, may_change=["num_steps"]
    ) as checkpoints,
  ):
    state = checkpoints.restore(state, batches)
    steps = range(int(state.step) + 1, num_steps + 1)
    log = training.Log(workdir / "metrics.jsonl", checkpoints, steps, every=1)
    with log:
      for step in steps:
        batch = training.shard_batch(mesh, next(batches))
        state, metrics = train_step(state, batch)
        log(step, metrics)
        arm(moment, step)
        stopping = stop(step)
        if stopping or step % 4 == 0 or step == num_steps:
          log.flush()
          checkpoints.save(state, batches)
        if stopping:
          break


def arm(moment, step):
  """Sends the signal, or lays a trap for the next save."""
  kind, _, at = moment.partition("@")
  if not at or step != int(at):
    return
  if kind in ("kill", "term"):
    number = {"kill": signal.SIGKILL, "term": signal.SIGTERM}[kind]
    os.kill(os.getpid(), number)
  elif kind == "writing":  # while orbax writes the arrays
    start = training.checkpoints.files.start_writing_state

    def start_and_die(*args):
      threading.Timer(0.005, die).start()
      start(*args)

    training.checkpoints.files.start_writing_state = start_and_die
  elif kind == "unsealed":  # all is there but the seal
    write_seal = training.checkpoints.write_seal

    def write_or_die(directory):
      if directory.name == at:
        os.replace = die
      write_seal(directory)

    training.checkpoints.write_seal = write_or_die
  elif kind == "pruning":  # the seal of the oldest is gone, its files not yet
    training.checkpoints.shutil.rmtree = die
  elif kind == "line":  # in the middle of a line of metrics
    with open(Path(sys.argv[1]) / "metrics.jsonl", "a") as file:
      file.write('{"step": 99')
    die()


def die(*args):
  os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
  main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
