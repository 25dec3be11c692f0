"""Trains a score SDE.

  python -m experiments.score_sde.train ve/cifar10_ncsnpp_continuous
  python -m experiments.score_sde.train mnist5k_ve    # 2 CPU cores, 3 minutes

mnist5k_vp and mnist5k_subvp are its siblings; the same command continues a run
that was stopped or killed. The paper's models take days on a TPU v3-8; not run
here.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
import tyro

from experiments.cli import command_line
from experiments.models import CROPS
from experiments.plots import plot_loss
from experiments.score_sde import config as configs
from experiments.score_sde import model
from experiments.score_sde.config import Config
from jaxgen import data, training
from jaxgen.types import Key, PyTree


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl and loss.png.
  """
  config = configs.smoke(config) if config.smoke else config
  net = model.make_net(config)
  ema = training.warmed_up_ema if config.ema_warmup else training.constant_ema
  optimizer = training.adam(
    config.lr,
    config.warmup_steps,
    config.clip_norm,
    decay_steps=config.decay_steps or None,
  )
  return fit(
    config,
    "score_sde",
    lambda key: model.init_params(config, net, key),
    model.make_loss(config, model.make_process(config), net),
    optimizer,
    ema(config.ema_decay),
  )


def fit(
  config: Any,
  experiment: str,
  init: Callable[[Key], PyTree],
  loss: training.LossFn,
  optimizer: optax.GradientTransformation,
  ema_decay: training.EmaDecay,
) -> Path:
  """The loop of `train`, also NCSN's.

  Args:
    config: of the experiment.
    experiment: its name, for the checkpoints.
    init: key -> parameters.
    loss: (params, key, batch) -> scalar.
    optimizer: of the parameters.
    ema_decay: of their average.
  """
  workdir = Path(config.workdir or f"runs/{config.name}")
  training.initialize_distributed()
  mesh = training.make_mesh(fsdp=config.fsdp)
  train_step = training.make_train_step(loss, optimizer, ema_decay, mesh)
  fields = {"experiment": experiment, **dataclasses.asdict(config)}
  with (
    training.stop_on_sigterm() as stop,
    training.Checkpoints(
      workdir / "checkpoints", fields, may_change=configs.RUN_FIELDS
    ) as checkpoints,
  ):
    batches = data.train_batches(
      data.load(config.dataset, config.split, config.data_dir or None),
      config.batch_size,
      config.image_size,
      config.seed,
      flip=config.flip,
      crop=CROPS[config.crop],
      num_workers=config.num_workers,
    )
    init_key, key = jax.random.split(jax.random.key(config.seed))
    state = training.init_state(init(init_key), optimizer, key)
    state = training.shard_state(mesh, state)
    state = checkpoints.restore(state, batches)
    steps = range(int(state.step) + 1, config.steps + 1)
    with training.Log(
      workdir / "metrics.jsonl", checkpoints, steps, config.log_every
    ) as log:
      for step in steps:
        batch = training.shard_batch(mesh, {"image": next(batches)["image"]})
        state, metrics = train_step(state, batch)
        log(step, metrics)
        stopping = stop(step)
        if stopping or step % config.save_every == 0 or step == config.steps:
          log.flush()
          checkpoints.save(state, batches)
        if stopping:
          break
  if int(state.step) < config.steps:  # SIGTERM
    sys.exit(0)
  if jax.process_index() == 0:
    plot_loss(workdir / "metrics.jsonl", workdir / "loss.png")
    print(f"trained to step {config.steps}: {workdir}")
  return workdir


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
