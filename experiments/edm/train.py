"""Trains EDM.

  python -m experiments.edm.train cifar10 --workdir runs/edm-cifar10
  python -m experiments.edm.train cifar10_cond --augment 0.12 --no-flip  # F
  python -m experiments.edm.train mnist5k --formulation ve  # 2 CPU cores

The same command continues a run that was stopped or killed. `python -m
experiments.evaluate --weights runs/edm-cifar10 --sampler edm_heun --steps 18
--grid karras --no-clip` scores it. The paper trained CIFAR-10 for 200 million
images, two days on 8 V100; not run here.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import tyro

import jaxgen.diffusion as jd
from experiments.cli import command_line
from experiments.edm import config as configs
from experiments.edm import model
from experiments.edm.config import Config
from experiments.models import CROPS
from experiments.plots import plot_loss
from jaxgen import data, training


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl and loss.png.
  """
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/edm-{config.name}")
  training.initialize_distributed()
  mesh = training.make_mesh(fsdp=config.fsdp)

  unet = model.make_network(config)
  warmup = max(1, config.warmup_images // config.batch_size)
  optimizer = training.adam(config.lr, warmup)
  train_step = training.make_train_step(
    model.make_loss(config, jd.KarrasProcess(), unet),
    optimizer,
    model.ema_decay(config),
    mesh,
  )

  experiment = {"experiment": "edm", **dataclasses.asdict(config)}
  with (
    training.stop_on_sigterm() as stop,
    training.Checkpoints(
      workdir / "checkpoints", experiment, may_change=configs.RUN_FIELDS
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
    params = model.init_params(config, unet, init_key)
    state = training.init_state(params, optimizer, key)
    state = training.shard_state(mesh, state)
    state = checkpoints.restore(state, batches)
    steps = range(int(state.step) + 1, config.steps + 1)
    kept = ("image", "label") if config.num_classes else ("image",)
    with training.Log(
      workdir / "metrics.jsonl", checkpoints, steps, config.log_every
    ) as log:
      for step in steps:
        batch = next(batches)
        batch = training.shard_batch(mesh, {k: batch[k] for k in kept})
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
