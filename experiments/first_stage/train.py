"""Trains a first stage of latent diffusion.

  python -m experiments.first_stage.train kl-f8 --lpips DIR --workdir runs/kl-f8
  python -m experiments.first_stage.train openmoji_kl_f4 --dtype bfloat16
  python -m experiments.first_stage.train mnist5k_kl_f4  # 2 CPU cores, 3 min

The same command continues a run that was stopped or killed. Without --lpips
the perceptual distance is one of pixels (`pyramid_distance`). The paper trained
on OpenImages until the reconstructions' FID stopped falling, kl-f8 for 247k
steps (R-FID 0.90); not run here.
"""

from functools import partial
from pathlib import Path

import jax
import tyro

from experiments.cli import command_line
from experiments.first_stage import config as configs
from experiments.first_stage import model, reconstruction
from experiments.first_stage.config import Config
from experiments.first_stage.step import init_state, make_step
from experiments.fitting import fit
from experiments.plots import read_metrics, save_grid
from jaxgen import training


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl, loss.png, and
    reconstructions.png: images of the test split, each above what became of it.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/{config.name}")
  init = partial(init_state, config)
  step = partial(make_step, config, model.make_perceptual(config))
  fit(config, "first_stage", workdir, init, step)
  if jax.process_count() == 1:
    show(workdir)
  return workdir


def show(workdir: Path) -> None:
  """Draws reconstructions, and says so if the latent has collapsed."""
  weights = model.load(str(workdir))
  config = weights[0]
  images = reconstruction.Images(config, 32)
  batch = next(reconstruction.reconstruct(weights, images, 32))
  scale = max(1, 64 // config.image_size)
  path = workdir / "reconstructions.png"
  save_grid(path, reconstruction.grid(batch), columns=8, scale=scale)
  print(f"saved: {path}")
  for metrics in read_metrics(workdir / "metrics.jsonl")[-1:]:
    if said := model.collapse(config, metrics, config.batch_size):
      print(said)


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
