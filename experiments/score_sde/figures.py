"""Score SDE's figures from one checkpoint.

  python -m experiments.score_sde.figures --weights runs/mnist5k_vp

trajectories.png   pixels along the ODE and the reverse SDE (Fig. 2 in pixels)
pc.png             predictor, corrector and both at equal NFE (Fig. 4)
interpolation.png  latents of test images, mixed and decoded (Fig. 6)
temperature.png    latents scaled down before decoding (Fig. 6)
inpainting.png, colours.png  known part, and samples of the rest (Fig. 5)
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxgen.diffusion as jd
from experiments.cli import command_line
from experiments.models import Model
from experiments.plots import new_figure, save_grid
from experiments.score_sde import model as models
from experiments.score_sde.sampling import (
  EPS,
  ScoreSampling,
  flow_down,
  make_sampler,
)
from jaxgen import data
from jaxgen.types import Array

TEMPERATURES = (1.0, 0.9, 0.8, 0.7, 0.6)
_LOOSE = jd.Tolerances(1e-4, 1e-4)


def trajectories(model: Model, params, key, n: int, steps: int):
  """(times, paths of one pixel of n images by ODE, by SDE)."""
  denoiser = model.denoiser(params, None)
  x_T = jd.prior(model.process, key, _shape(model, n))
  paths = []
  for predictor in ("heun", "reverse"):
    how = ScoreSampling(predictor, "none", steps, denoise=False)
    sampler, times = make_sampler(model, denoiser, how)
    path = jd.trajectory(key, x_T, times, sampler)
    size = model.config.image_size // 2
    paths.append(path[:, :, size, size, 0])
  return times, *paths


def correctors(model: Model, params, key, n: int, steps: int):
  """n images of each way, about 2 `steps` evaluations: `[3, n, ...]`."""
  denoiser = model.denoiser(params, None)
  x_T = jd.prior(model.process, key, _shape(model, n))
  ways = (
    ScoreSampling("reverse", "none", 2 * steps),
    ScoreSampling("none", "langevin", steps, 2),
    ScoreSampling("reverse", "langevin", steps),
  )
  shown = []
  for how in ways:
    sampler, times = make_sampler(model, denoiser, how)
    shown.append(jd.sample(key, x_T, times, sampler))
  return jnp.stack(shown)


def interpolate(model: Model, params, pairs, columns: int):
  """Pairs `[2, n, ...]` mixed on the sphere of their latents, decoded."""
  denoiser = model.denoiser(params, None)
  n, shape = pairs.shape[1], pairs.shape[2:]
  both = pairs.reshape(-1, *shape)
  end = EPS[model.config.sde]
  latents = jd.ode_encode(model.process, denoiser, both, end, _LOOSE).x
  mixed = [
    jd.slerp(latents[:n], latents[n:], w) for w in np.linspace(0, 1, columns)
  ]
  return _decode(model, denoiser, jnp.stack(mixed, axis=1))


def temper(model: Model, params, key, n: int):
  """n latents at falling temperatures, decoded: `[n, temperatures, ...]`."""
  denoiser = model.denoiser(params, None)
  x_T = jd.prior(model.process, key, _shape(model, n))
  scaled = jnp.stack([scale * x_T for scale in TEMPERATURES], axis=1)
  return _decode(model, denoiser, scaled)


def _decode(model: Model, denoiser: jd.Denoiser, latents: Array) -> Array:
  """Images of latents `[rows, columns, ...]`, as one batch."""
  how = ScoreSampling("ode", "none", tolerance=_LOOSE.rtol)
  flat = latents.reshape(-1, *latents.shape[2:])
  return flow_down(model, denoiser, flat, how).x.reshape(latents.shape)


def edit(model: Model, params, key, images, steps: int, columns: int, how: str):
  """What is known of images, and `columns` samples of the rest."""
  denoiser = model.denoiser(params, None)
  way = ScoreSampling("reverse", "langevin", steps, denoise=False)
  sampler, times = make_sampler(model, denoiser, way)
  repeated = jnp.repeat(images, columns, axis=0)
  if how == "inpaint":
    left = jnp.arange(images.shape[2]) < images.shape[2] // 2
    mask = left.astype(images.dtype)[None, None, :, None]
    sampler = jd.inpaint(model.process, sampler, repeated, mask)
    known = mask * images - (1 - mask)
  else:
    grey = repeated.mean(-1, keepdims=True)
    sampler = jd.colorize(model.process, sampler, grey)
    known = jnp.broadcast_to(images.mean(-1, keepdims=True), images.shape)
  x_T = jd.prior(model.process, key, repeated.shape)
  filled = jd.sample(key, x_T, times, sampler)
  filled = filled.reshape(len(images), columns, *images.shape[1:])
  return jnp.concatenate([known[:, None], filled, images[:, None]], axis=1)


def main(
  weights: str,
  rows: int = 8,
  columns: int = 8,
  steps: int = 0,
  seed: int = 0,
  out: str = "",
) -> None:
  """Draws all figures.

  Args:
    weights: a workdir, or NAME:PATH of a published checkpoint.
    rows: images per figure.
    columns: stages per image.
    steps: of the predictor; the configuration's T if 0.
    seed: of the noise.
    out: directory for the figures; WEIGHTS/figures by default.
  """
  loaded = models.load(weights)
  config, _, params = loaded
  steps = steps or config.T
  model = models.as_model(*loaded)
  flow_model = models.as_model(*loaded, models.make_sde(config))
  directory = Path(out or f"{weights.partition(':')[0]}/figures")
  directory.mkdir(parents=True, exist_ok=True)
  key = jax.random.key(seed)

  drawn = jax.jit(lambda p, k: trajectories(flow_model, p, k, 8, steps)[1:])
  times = jd.continuous_times(flow_model.process, steps, EPS[config.sde])
  _plot_paths(directory / "trajectories.png", times, *drawn(params, key))
  ways = jax.jit(lambda p, k: correctors(model, p, k, columns, steps))
  _save_rows(directory / "pc.png", ways(params, key))

  source = data.load(config.dataset, config.test_split, config.data_dir or None)
  count = min(2 * rows, len(source))
  batch = next(data.eval_batches(source, count, config.image_size))
  images = jnp.asarray(batch["image"])
  pairs = jnp.stack([images[0::2], images[1::2]])
  mixed = jax.jit(lambda p, x: interpolate(flow_model, p, x, columns))
  _save_rows(directory / "interpolation.png", mixed(params, pairs))
  tempered = jax.jit(lambda p, k: temper(flow_model, p, k, rows))
  _save_rows(directory / "temperature.png", tempered(params, key))

  edits = {"inpainting": "inpaint"}
  if config.image_channels == 3:
    edits["colours"] = "colorize"
  for name, how in edits.items():
    run = jax.jit(
      lambda p, k, x, how=how: edit(model, p, k, x, steps, columns, how)
    )
    _save_rows(directory / f"{name}.png", run(params, key, images[:rows]))
  print(f"figures: {directory}")


def _shape(model: Model, n: int) -> tuple[int, ...]:
  size = model.config.image_size
  return (n, size, size, model.config.image_channels)


def _plot_paths(path: Path, times: Any, ode: Any, sde: Any) -> None:
  figure, axes = new_figure()
  axes.plot(times, np.asarray(sde), color="0.75", linewidth=0.7)
  axes.plot(times, np.asarray(ode), linewidth=1.5)
  axes.set(xlabel="t", ylabel="one pixel: ODE in colour, SDE grey")
  axes.set_yscale("symlog")
  figure.savefig(path, dpi=120)


def _save_rows(path: Path, stages: Any) -> None:
  """`[rows, columns, H, W, C]` as one grid."""
  columns = stages.shape[1]
  images = data.to_uint8(np.asarray(stages).reshape(-1, *stages.shape[2:]))
  save_grid(path, images, columns, scale=2 if stages.shape[2] < 64 else 1)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
