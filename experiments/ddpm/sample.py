"""Samples a trained or published DDPM.

  python -m experiments.ddpm.sample --weights runs/cifar10
  python -m experiments.ddpm.sample --weights ddpm-cifar10-32 --sampler ddim \\
    --steps 50

`--weights` takes a workdir of `experiments.ddpm.train`, or a file or directory
in the layout of `google/ddpm-*` (diffusion_pytorch_model.safetensors with
config.json). Of those, ddpm-cifar10-32 holds the weights without averaging
(FID about 12), the `ddpm-ema-*` repositories the averaged ones.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from experiments import models
from experiments.cli import command_line
from experiments.plots import save_grid
from experiments.sampling import Sampling, generate, make_draw

DEFAULT = Sampling()


def main(
  weights: str,
  how: tyro.conf.OmitArgPrefixes[Sampling] = DEFAULT,
  n: int = 64,
  batch_size: int = 64,
  seed: int = 0,
  image_size: int | None = None,
  out: str = "runs/samples",
) -> None:
  """Writes samples.npz (uint8) and grid.png.

  Args:
    weights: a workdir, or published weights.
    how: the sampler.
    n: number of images.
    batch_size: images at a time.
    seed: of the noise.
    image_size: of published weights, if not the data set's.
    out: directory for the results.
  """
  model = models.load(weights)
  if image_size is not None:
    config = dataclasses.replace(model.config, image_size=image_size)
    model = model._replace(config=config)
  images = generate(
    make_draw(model, how), model.params, n, seed, batch_size, how.sampler
  )
  directory = Path(out)
  directory.mkdir(parents=True, exist_ok=True)
  np.savez(directory / "samples.npz", images)
  save_grid(directory / "grid.png", images[:64], columns=8)
  print(f"{n} samples: {directory / 'grid.png'}, {directory / 'samples.npz'}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
