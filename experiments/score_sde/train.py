"""Trains a score SDE.

  python -m experiments.score_sde.train ve/cifar10_ncsnpp_continuous
  python -m experiments.score_sde.train mnist5k_ve    # 2 CPU cores, 3 minutes

mnist5k_vp and mnist5k_subvp are its siblings; the same command continues a run
that was stopped or killed. The paper's models take days on a TPU v3-8; not run
here.
"""

from functools import partial
from pathlib import Path

import tyro

from experiments.cli import command_line
from experiments.fitting import fit
from experiments.score_sde import config as configs
from experiments.score_sde import model
from experiments.score_sde.config import Config
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
  ema = training.warmed_up_ema if config.ema_warmup else training.constant_ema
  optimizer = training.adam(
    config.lr,
    config.warmup_steps,
    config.clip_norm,
    decay_steps=config.decay_steps or None,
  )
  loss = model.make_loss(config, model.make_process(config), net)

  def init(key: Key, run_key: Key) -> training.TrainState:
    params = model.init_params(config, net, key)
    return training.init_state(params, optimizer, run_key)

  decay = ema(config.ema_decay)
  step = partial(
    training.make_train_step,
    loss,
    optimizer,
    decay,
    accumulate=config.accumulate,
  )

  workdir = Path(config.workdir or f"runs/{config.name}")
  return fit(config, "score_sde", workdir, init, step)


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
