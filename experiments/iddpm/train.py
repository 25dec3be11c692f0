"""Trains an improved DDPM.

  python -m experiments.iddpm.train cifar10 --workdir runs/iddpm-cifar10
  python -m experiments.iddpm.train mnist5k --objective vlb  # 2 CPU cores

The same command continues a run that was stopped or killed, the history of the
importance sampling included. The paper trained CIFAR-10 for 500k steps (NLL
3.17 with L_hybrid, 2.94 with L_vlb); not run here.
"""

from functools import partial
from pathlib import Path

import tyro

from experiments.cli import command_line
from experiments.fitting import fit
from experiments.iddpm import adm, model
from experiments.iddpm import config as configs
from experiments.iddpm.config import Config
from jaxgen import training
from jaxgen.types import Key


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl and loss.png.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/iddpm-{config.name}")
  process = model.make_process(config)
  unet = model.make_unet(config)
  loss = model.make_loss(config, process, unet)
  ema = training.warmed_up_ema if config.ema_warmup else training.constant_ema
  optimizer = training.adam(config.lr)  # AdamW without weight decay

  def init(key: Key, run_key: Key) -> training.TrainState:
    params = model.init_params(config, unet, key)
    memory = model.make_memory(config)
    return training.init_state(params, optimizer, run_key, memory)

  decay = ema(config.ema_decay)
  step = partial(
    training.make_train_step,
    loss,
    optimizer,
    decay,
    accumulate=config.accumulate,
  )

  keep = ("image", "label") if config.num_classes else ("image",)
  return fit(config, "iddpm", workdir, init, step, keep=keep)


if __name__ == "__main__":
  every = configs.CONFIGS | adm.CONFIGS
  named = {name: (name, config) for name, config in every.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
