"""Trains an NCSN or NCSNv2.

  python -m experiments.ncsn.train ncsnv2/cifar10
  python -m experiments.ncsn.train mnist5k

The same command continues a run that was stopped or killed. Not run here but
for mnist5k. `--smoke` shows that it runs.
"""

from functools import partial
from pathlib import Path

import tyro

from experiments.cli import command_line
from experiments.fitting import fit
from experiments.ncsn import config as configs
from experiments.ncsn import model
from experiments.ncsn.config import Config
from jaxgen import training
from jaxgen.types import Key


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl and loss.png.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  net = model.make_net(config)
  loss = model.make_loss(model.make_process(config), net)
  optimizer = training.adam(config.lr, eps=config.adam_eps)

  def init(key: Key, run_key: Key) -> training.TrainState:
    params = model.init_params(config, net, key)
    return training.init_state(params, optimizer, run_key)

  decay = training.constant_ema(config.ema_decay)
  step = partial(
    training.make_train_step,
    loss,
    optimizer,
    decay,
    accumulate=config.accumulate,
  )

  workdir = Path(config.workdir or f"runs/{config.name}")
  return fit(config, "ncsn", workdir, init, step)


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
