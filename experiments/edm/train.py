"""Trains EDM.

  python -m experiments.edm.train cifar10 --workdir runs/edm-cifar10
  python -m experiments.edm.train cifar10_cond --augment 0.12 --no-flip  # F
  python -m experiments.edm.train mnist5k --formulation ve  # 2 CPU cores

The same command continues a run that was stopped or killed. `python -m
experiments.evaluate --weights runs/edm-cifar10 --sampler edm_heun --steps 18
--grid karras --no-clip` scores it. The paper trained CIFAR-10 for 200 million
images, two days on 8 V100; not run here.
"""

from functools import partial
from pathlib import Path

import tyro

import jaxgen.diffusion as jd
from experiments.cli import command_line
from experiments.edm import config as configs
from experiments.edm import model
from experiments.edm.config import Config
from experiments.fitting import fit
from jaxgen import training
from jaxgen.types import Key


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl and loss.png.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/edm-{config.name}")
  unet = model.make_network(config)
  loss = model.make_loss(config, jd.KarrasProcess(), unet)
  warmup = max(1, config.warmup_images // config.batch_size)
  optimizer = training.adam(config.lr, warmup)

  def init(key: Key, run_key: Key) -> training.TrainState:
    params = model.init_params(config, unet, key)
    return training.init_state(params, optimizer, run_key)

  decay = model.ema_decay(config)
  step = partial(
    training.make_train_step,
    loss,
    optimizer,
    decay,
    accumulate=config.accumulate,
  )

  keep = ("image", "label") if config.num_classes else ("image",)
  return fit(config, "edm", workdir, init, step, keep=keep)


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
