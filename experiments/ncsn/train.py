"""Trains an NCSN or NCSNv2.

  python -m experiments.ncsn.train ncsnv2/cifar10
  python -m experiments.ncsn.train mnist5k

The same command continues a run that was stopped or killed. Not run here but
for mnist5k. `--smoke` shows that it runs.
"""

from pathlib import Path

import tyro

from experiments.cli import command_line
from experiments.ncsn import config as configs
from experiments.ncsn import model
from experiments.ncsn.config import Config
from experiments.score_sde.train import fit
from jaxgen import training


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl and loss.png.
  """
  config = configs.smoke(config) if config.smoke else config
  net = model.make_net(config)
  return fit(
    config,
    "ncsn",
    lambda key: model.init_params(config, net, key),
    model.make_loss(model.make_process(config), net),
    training.adam(config.lr, eps=config.adam_eps),
    training.constant_ema(config.ema_decay),
  )


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
