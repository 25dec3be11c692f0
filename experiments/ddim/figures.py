"""DDIM's figures: what x_T alone decides.

  python -m experiments.ddim.figures --weights ddpm-ema-cifar10
  python -m experiments.ddim.figures --weights runs/mnist5k

consistency.png    Fig. 5: one x_T in each row, S = 10, 20, 50, 100, 1000 steps
                   with eta = 0 in the columns
interpolation.png  Fig. 6 and App. D.5: x_T on the arc between two draws
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxgen.diffusion as jd
from experiments import models
from experiments.cli import command_line
from experiments.ddim.sampling import STEPS, sampling
from experiments.models import Model
from experiments.plots import save_grid
from experiments.sampling import make_sampler, make_times
from jaxgen import data
from jaxgen.types import Array


def decode(
  model: Model, x_T: Array, steps: int, labels=None, clip: bool = False
) -> Array:
  """x_0 of each x_T by S steps of DDIM with eta = 0."""
  how = sampling(model.config, steps, "0.0")

  @jax.jit
  def run(params, x_T):
    denoiser = model.denoiser(params, labels)
    if clip:
      denoiser = jd.clip_x_0(model.process, denoiser)
    sampler = make_sampler(model, how, denoiser)
    # The key draws nothing: eta = 0.
    return jd.sample(jax.random.key(0), x_T, make_times(model, how), sampler)

  return run(model.params, x_T)


def consistency(
  model: Model, key, n: int, steps: Sequence[int], clip: bool = False
) -> Array:
  """Samples from n x_T with each number of steps, `[n, len(steps), ...]`."""
  x_T = jd.prior(model.process, key, shape_of(model, n))
  labels = labels_of(model, key, n)
  columns = [decode(model, x_T, s, labels, clip) for s in steps]
  return jnp.stack(columns, axis=1)


def interpolation(
  model: Model, key, n: int, columns: int, steps: int, clip: bool = False
) -> Array:
  """n arcs in x_T, decoded at `columns` places: `[n, columns, ...]`."""
  keys = jax.random.split(key)
  a, b = (jd.prior(model.process, k, shape_of(model, n)) for k in keys)
  between = [jd.slerp(a, b, w) for w in np.linspace(0, 1, columns)]
  x_T = jnp.stack(between, axis=1).reshape(n * columns, *a.shape[1:])
  labels = labels_of(model, key, n)
  if labels is not None:
    labels = jnp.repeat(labels, columns)
  x_0 = decode(model, x_T, steps, labels, clip)
  return x_0.reshape(n, columns, *x_0.shape[1:])


def shape_of(model: Model, n: int) -> tuple[int, ...]:
  """Of n images."""
  size = model.config.image_size
  return (n, size, size, model.config.image_channels)


def labels_of(model: Model, key, n: int) -> Array | None:
  """A random label for each row, if the model is told labels."""
  if not model.num_classes:
    return None
  return jax.random.randint(
    jax.random.fold_in(key, 1), (n,), 0, model.num_classes
  )


def main(
  weights: str,
  rows: int = 8,
  columns: int = 11,
  steps: Sequence[int] = STEPS,
  interpolation_steps: int = 50,
  clip: bool = False,
  seed: int = 0,
  out: str = "runs/ddim-figures",
) -> None:
  """Draws both figures.

  Args:
    weights: a workdir, or published weights.
    rows: of each figure.
    columns: places on an arc.
    steps: the S of the first figure.
    interpolation_steps: the S of the second.
    clip: the estimates of x_0, which the paper does not; cosine betas need it.
    seed: of x_T.
    out: directory for the figures.
  """
  model = models.load(weights)
  directory = Path(out)
  directory.mkdir(parents=True, exist_ok=True)
  key = jax.random.key(seed)
  _save(
    directory / "consistency.png", consistency(model, key, rows, steps, clip)
  )
  arcs = interpolation(model, key, rows, columns, interpolation_steps, clip)
  _save(directory / "interpolation.png", arcs)
  print(f"figures: {directory}")


def _save(path: Path, images: Array) -> None:
  """`[rows, columns, H, W, C]` as one grid."""
  columns = images.shape[1]
  flat = data.to_uint8(np.asarray(images).reshape(-1, *images.shape[2:]))
  save_grid(path, flat, columns, scale=2 if images.shape[2] < 64 else 1)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
