"""The training that is killed: `python -m tests.faults.run WORKDIR STEPS`.

The command is the same for every start. What shall happen to the process comes
by the environment:

    FAULT  file:N:REGEX  SIGKILL before its N-th operation on a file of the
                         workdir that looks like this in FAULT_LOG
           line:N        SIGKILL in the middle of its N-th line of metrics
           arrays:S      SIGKILL S seconds after its first save by orbax began
           none:0        nothing
    FAULT_LOG            a file, to which operations are written before they are
                         made, "open metrics.jsonl"
    HEARTBEAT            seconds after which a silent process counts as lost
"""

import dataclasses
import os
import re
import signal
import sys
import threading
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.cli import command_line
from experiments.fitting import fit
from jaxgen import data, training

EXAMPLES, SIZE = 40, 4
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")


@dataclasses.dataclass(frozen=True)
class Config:
  """What `fit` asks of a configuration.

  Attributes:
    steps: number of updates.
    batch_size: over all devices.
    seed: of everything.
    fsdp: devices that share one copy of the parameters.
    save_every: steps between checkpoints.
    log_every: steps between lines of metrics.jsonl.
  """

  steps: int
  batch_size: int = 8
  seed: int = 0
  fsdp: int = 1
  save_every: int = 4
  log_every: int = 1


class Net(nn.Module):
  """A mean image, with dropout: the noise of a step counts, too."""

  @nn.compact
  def __call__(self, x, deterministic=False):
    h = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
    h = nn.Dropout(0.2)(h, deterministic=deterministic)
    h = nn.relu(nn.Dense(256)(h))
    return nn.Dense(SIZE * SIZE)(h).reshape(x.shape)


def batches(config: Config):
  """A shuffled stream of random images, by the library's own iterator."""
  images = np.random.default_rng(0).integers(
    0, 256, (EXAMPLES, SIZE, SIZE, 1), np.uint8
  )
  source = [{"image": image} for image in images]
  return data.train_batches(
    source, config.batch_size, SIZE, config.seed, flip=True
  )


def loss_fn(params, key, batch):
  """The mean square error of an image that is drawn from dropout."""
  x = Net().apply({"params": params}, batch["image"], rngs={"dropout": key})
  return jnp.mean((x - batch["image"]) ** 2)


def train(workdir: Path, steps: int) -> None:
  """The training."""
  heartbeat = os.environ.get("HEARTBEAT")
  if heartbeat:
    jax.distributed.initialize(
      num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
      process_id=int(os.environ["JAX_PROCESS_ID"]),
      heartbeat_timeout_seconds=int(heartbeat),
    )
  training.initialize_distributed()
  optimizer = training.adam(0.01, warmup_steps=3, clip_norm=1.0)

  def init(key, run_key):
    x = jnp.zeros((1, SIZE, SIZE, 1))
    params = jax.jit(partial(Net().init, deterministic=True))(key, x)["params"]
    return training.init_state(params, optimizer, run_key)

  decay = training.constant_ema(0.9)
  step = partial(training.make_train_step, loss_fn, optimizer, decay)
  fit(Config(steps), "faults", workdir, init, step, batches=batches)


class _Watch:
  """Counts the operations on files of the workdir, and dies at one of them."""

  def __init__(self, workdir: Path, log: str, like: str, last: int) -> None:
    self._root = os.path.realpath(workdir)
    self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    self._like = re.compile(like)
    self._left = last
    self._lock = threading.Lock()

  def __call__(self, event: str, args: tuple) -> None:
    """The interpreter's audit hook: called before the operation."""
    if event == "open":
      path, _, flags = args
      if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR):
        return
      folder = -1
    elif event in _CHANGES:
      path, folder = args[0], args[-1]
    else:
      return
    path = os.fsdecode(path)
    if folder != -1 and not os.path.isabs(path):
      path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    path = os.path.abspath(path)
    if not path.startswith(self._root):
      return
    with self._lock:
      line = f"{event} {os.path.relpath(path, self._root)}"
      os.write(self._log, f"{line}\n".encode())
      self._left -= bool(self._like.search(line))
      if self._left == 0:
        die()


def die(*_) -> None:
  """SIGKILL, from which there is no return."""
  os.kill(os.getpid(), signal.SIGKILL)
  threading.Event().wait()


def arm(fault: str, workdir: Path, log: str) -> None:
  """Lays the trap."""
  kind, number, *like = fault.split(":", 2)
  last = int(number) if kind == "file" else sys.maxsize
  sys.addaudithook(_Watch(workdir, log, "".join(like), last))
  if kind == "arrays":
    files = training.checkpoints.files
    start = files.start_writing_state

    def start_and_die(*args):
      threading.Timer(float(number), die).start()
      start(*args)

    files.start_writing_state = start_and_die
  elif kind == "line":
    left = [int(number)]
    write = training.MetricsWriter.write

    def write_or_die(self, step, metrics):
      left[0] -= 1
      if left[0] == 0:
        os.write(self._file.fileno(), b'{"step": %d, "lo' % step)
        die()
      write(self, step, metrics)

    training.MetricsWriter.write = write_or_die


if __name__ == "__main__":
  _workdir = Path(sys.argv[1])
  if "FAULT" in os.environ:
    arm(os.environ["FAULT"], _workdir, os.environ["FAULT_LOG"])
  command_line(lambda: train(_workdir, int(sys.argv[2])))
