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
from typing import Literal

import jax
import numpy as np
import tyro

import jaxgen.diffusion as jd
from experiments.cli import command_line
from experiments.ddpm import model
from experiments.ddpm.config import Config
from experiments.plots import save_grid
from experiments.sampling import Draw, generate
from jaxgen.nn.ddpm_unet import UNet

Grid = Literal["even", "uniform", "quadratic"]


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to sample.

  Attributes:
    sampler: "ddpm" is ancestral sampling, "ddim" takes eta.
    steps: of the sampler; for "ddpm" all T as a rule.
    grid: "even" spreads the steps from T to 0, "uniform" and "quadratic" are
      DDIM's (App. D.2).
    eta: DDIM's.
    variance: of the ancestral step; the model's own by default.
    clip: clip the estimate of x_0 to [-1, 1] at every step.
  """

  sampler: Literal["ddpm", "ddim"] = "ddpm"
  steps: int = 1000
  grid: Grid = "even"
  eta: float = 0.0
  variance: Literal["small", "large"] | None = None
  clip: bool = True


GRIDS = {
  "even": jd.descending_times,
  "uniform": jd.uniform_times,
  "quadratic": jd.quadratic_times,
}


def make_draw(config: Config, unet: UNet, how: Sampling) -> Draw:
  """The jitted (params, keys) -> images of a way to sample."""
  process = model.make_process(config)
  times = GRIDS[how.grid](config.T, how.steps)
  size = config.image_size

  @jax.jit
  def draw(params, keys):
    network = model.make_network(unet, params)
    denoiser = model.make_denoiser(config, process, network)
    if how.clip:
      denoiser = jd.clip_x_0(process, denoiser)
    if how.sampler == "ddpm":
      variance = model.VARIANCE[how.variance or config.variance]
      sampler = jd.ancestral(process, denoiser, variance)
    else:
      sampler = jd.ddim(process, denoiser, how.eta)
    shape = (keys.shape[0], size, size, config.image_channels)
    return jd.sample(keys, jd.prior(process, keys, shape), times, sampler)

  return draw


def main(
  weights: str,
  how: tyro.conf.OmitArgPrefixes[Sampling] = Sampling(),
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
  config, unet, params = model.load(weights)
  if image_size is not None:
    config = dataclasses.replace(config, image_size=image_size)
  images = generate(
    make_draw(config, unet, how), params, n, seed, batch_size, how.sampler
  )
  directory = Path(out)
  directory.mkdir(parents=True, exist_ok=True)
  np.savez(directory / "samples.npz", images)
  save_grid(directory / "grid.png", images[:64], columns=8)
  print(f"{n} samples: {directory / 'grid.png'}, {directory / 'samples.npz'}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
