"""DDPM's figures from one checkpoint.

  python -m experiments.ddpm.figures --weights runs/cifar10

progressive.png    Fig. 6: the estimate of x_0 as the reverse process runs
shared.png         Fig. 7: samples that share x_t, for t = T, ..., 0
interpolation.png  Fig. 8: images mixed at noise level t, decoded again
rate_distortion.png, .json  Table 4, Fig. 5: progressive coding
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxgen.diffusion as jd
from experiments.cli import command_line
from experiments.ddpm import model
from experiments.ddpm.config import Config
from experiments.plots import new_figure, save_grid
from jaxgen import data


def progressive(
  config: Config, denoiser: jd.Denoiser, key, n: int, columns: int
):
  """Estimates of x_0 along one reverse process each, `[n, columns, ...]`."""
  process = model.make_process(config)
  sampler = jd.ancestral(process, denoiser, model.VARIANCE[config.variance])
  times = jd.descending_times(config.T, config.T)
  shown = jd.descending_times(config.T, columns)[:-1]
  x_T = jd.prior(process, key, _shape(config, n))
  path = jd.trajectory(key, x_T, times, sampler)
  # x_t stands at index T - t of the path.
  estimates = [denoiser(path[config.T - t], jnp.asarray(t)).x_0 for t in shown]
  return jnp.stack([*estimates, path[-1]], axis=1)


def shared(config: Config, denoiser: jd.Denoiser, key, t: int, n: int):
  """n samples whose reverse processes agree down to time t, `[n, ...]`."""
  process = model.make_process(config)
  sampler = jd.ancestral(process, denoiser, model.VARIANCE[config.variance])
  x = jd.prior(process, key, _shape(config, 1))
  if t < config.T:
    times = jd.descending_times(config.T, config.T)[: config.T - t + 1]
    x = jd.sample(key, x, times, sampler)
  keys = jax.random.split(jax.random.fold_in(key, t), n)
  x = jnp.repeat(x, n, axis=0)
  return jd.sample(keys, x, np.arange(t, -1, -1), sampler)


def interpolate(config: Config, denoiser, key, pairs, t: int, columns: int):
  """Pairs `[2, n, ...]` mixed at level t and decoded, `[n, columns, ...]`.

  x_t = (1 - lambda) x_t + lambda x_t', each stochastically encoded with the
  same noise for every lambda (section 4.4).
  """
  process = model.make_process(config)
  sampler = jd.ancestral(process, denoiser, model.VARIANCE[config.variance])
  first, second = (
    jd.q_sample(process, jax.random.fold_in(key, i), x, jnp.asarray(t))[0]
    for i, x in enumerate(pairs)
  )
  decoded = [
    jd.sample(key, (1 - m) * first + m * second, np.arange(t, -1, -1), sampler)
    for m in np.linspace(0.1, 0.9, columns)
  ]
  return jnp.stack([pairs[0], *decoded, pairs[1]], axis=1)


def rate_distortion(
  config: Config, denoiser: jd.Denoiser, key, x_0
) -> list[dict]:
  """Rate and distortion after each number of reverse steps (Table 4).

  Rate: bits per dimension of the terms sent so far; distortion: root mean
  square error of the estimate of x_0 on the scale [0, 255].
  """
  process = model.make_process(config)
  variance = model.VARIANCE[config.variance]
  bound = jd.vlb_bits_per_dim(process, denoiser, key, x_0, variance)
  terms, errors = bound.terms.mean(0), bound.x_0_mse.mean(0)
  rows = []
  for t in range(config.T, 0, -max(1, config.T // 20)):
    rows.append(
      {
        "reverse_steps": config.T - t + 1,
        "rate": float(terms[t:].sum()),
        "rmse": float(127.5 * jnp.sqrt(errors[t - 1])),
      }
    )
  return rows


def main(
  weights: str, rows: int = 8, columns: int = 8, seed: int = 0, out: str = ""
) -> None:
  """Draws all figures.

  Args:
    weights: a workdir, or published weights.
    rows: images per figure.
    columns: stages per image.
    seed: of the noise.
    out: directory for the figures; WEIGHTS/figures by default.
  """
  config, unet, params = model.load(weights)
  directory = Path(out or f"{weights}/figures")
  directory.mkdir(parents=True, exist_ok=True)
  key = jax.random.key(seed)
  process = model.make_process(config)

  def with_model(function, *static):
    """function(config, denoiser, key, ...) jitted, with params an argument."""

    def run(params, key, *arrays):
      network = model.make_network(unet, params)
      denoiser = model.make_denoiser(config, process, network)
      denoiser = jd.clip_x_0(process, denoiser)
      return function(config, denoiser, key, *arrays, *static)

    return run

  draw = jax.jit(with_model(progressive, rows, columns))
  stages = draw(params, key)
  _save_rows(directory / "progressive.png", stages)

  levels = [config.T * k // 4 for k in (4, 3, 2, 1)]
  same = [jax.jit(with_model(shared, t, columns))(params, key) for t in levels]
  _save_rows(directory / "shared.png", jnp.stack(same))

  source = data.load(config.dataset, config.test_split, config.data_dir or None)
  count = min(2 * rows, len(source))
  batch = next(data.eval_batches(source, count, config.image_size))
  images = jnp.asarray(batch["image"])
  pairs = jnp.stack([images[0::2], images[1::2]])
  mixed = jax.jit(with_model(interpolate, config.T // 2, columns))
  _save_rows(directory / "interpolation.png", mixed(params, key, pairs))

  bound = with_model(rate_distortion)(params, key, images)
  (directory / "rate_distortion.json").write_text(json.dumps(bound, indent=2))
  figure, axes = new_figure()
  axes.plot([b["rate"] for b in bound], [b["rmse"] for b in bound], marker=".")
  axes.set(xlabel="rate, bits/dim", ylabel="distortion, RMSE in [0, 255]")
  figure.savefig(directory / "rate_distortion.png", dpi=120)
  print(f"figures: {directory}")


def _shape(config: Config, n: int) -> tuple[int, ...]:
  return (n, config.image_size, config.image_size, config.image_channels)


def _save_rows(path: Path, stages) -> None:
  """`[rows, columns, H, W, C]` as one grid."""
  columns = stages.shape[1]
  images = data.to_uint8(np.asarray(stages).reshape(-1, *stages.shape[2:]))
  save_grid(path, images, columns, scale=2 if stages.shape[2] < 64 else 1)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
