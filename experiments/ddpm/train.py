"""Trains a DDPM.

  python -m experiments.ddpm.train cifar10 --workdir runs/cifar10
  python -m experiments.ddpm.train mnist5k          # 2 CPU cores, 3 minutes

The same command continues a run that was stopped or killed. The paper trained
CIFAR-10 for 800k steps in 10.6 hours on a TPU v3-8 (FID 3.17); not run here.
"""

from functools import partial
from pathlib import Path

import tyro

from experiments.cli import command_line
from experiments.ddpm import config as configs
from experiments.ddpm import model
from experiments.ddpm.config import Config
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
  workdir = Path(config.workdir or f"runs/{config.name}")
  process = model.make_process(config)
  unet = model.make_unet(config)
  loss = model.make_loss(config, process, unet)
  ema = training.warmed_up_ema if config.ema_warmup else training.constant_ema
  optimizer = training.adam(
    config.lr,
    config.warmup_steps,
    config.clip_norm,
    decay_steps=config.decay_steps or None,
  )

  def init(key: Key, run_key: Key) -> training.TrainState:
    params = model.init_params(config, unet, key)
    return training.init_state(params, optimizer, run_key)

  decay = ema(config.ema_decay)
  step = partial(
    training.make_train_step,
    loss,
    optimizer,
    decay,
    accumulate=config.accumulate,
  )

  return fit(config, "ddpm", workdir, init, step)


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
