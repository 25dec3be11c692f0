"""Improved DDPM's figures.

  python -m experiments.iddpm.figures
  python -m experiments.iddpm.figures --weights runs/simple runs/hybrid \\
    --steps 25 50 100 250 1000 --n 10000

variances.png    Fig. 1: beta-tilde_t / beta_t, for several T
schedules.png    Fig. 5: alpha-bar_t of linear and cosine betas
bound_terms.png  Fig. 2: the bound's terms L_t of each model
fid_steps.png    Fig. 8: FID against the number of steps; each model with its
                 own sampler, L_simple with both fixed variances, and DDIM

The first two need no model. The numbers of the others go to figures.json.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import jaxgen.diffusion as jd
from experiments import models
from experiments.cli import command_line
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  make_yardstick,
  score_samples,
)
from experiments.models import CROPS, Model
from experiments.plots import new_figure
from experiments.sampling import Sampling
from jaxgen import data


def alpha_bars(betas: np.ndarray) -> np.ndarray:
  """alpha-bar_t for t = 1, ..., T."""
  return np.cumprod(1 - betas)


def variance_ratios(betas: np.ndarray) -> np.ndarray:
  """beta-tilde_t / beta_t = (1 - abar_{t-1}) / (1 - abar_t), t = 2, ..., T."""
  abar = alpha_bars(betas)
  return (1 - abar[:-1]) / (1 - abar[1:])


def draw_schedules(path: Path, T: int = 1000) -> None:
  """Fig. 5."""
  figure, axes = new_figure()
  t = np.arange(1, T + 1) / T
  for name, betas in (
    ("linear", jd.linear_betas(T, 0.1 / T, 20 / T)),
    ("cosine", jd.cosine_betas(T)),
  ):
    axes.plot(t, alpha_bars(betas), label=name)
  axes.set(xlabel="t / T", ylabel="alpha-bar")
  axes.legend(frameon=False)
  figure.savefig(path, dpi=120)


def draw_variances(path: Path, Ts: Sequence[int] = (100, 1000, 10000)) -> None:
  """Fig. 1."""
  figure, axes = new_figure()
  for T in Ts:
    ratios = variance_ratios(jd.cosine_betas(T))
    axes.plot(np.arange(2, T + 1) / T, ratios, label=f"T = {T}")
  axes.set(xlabel="t / T", ylabel="beta-tilde / beta", xscale="log")
  axes.legend(frameon=False)
  figure.savefig(path, dpi=120)


def bound_terms(model: Model, n: int, chunk: int, seed: int = 0) -> np.ndarray:
  """Means of the bound's terms for t = 1, ..., T over n test images."""
  config, process = model.config, model.process
  source = data.load(config.dataset, config.test_split, config.data_dir or None)
  size = min(n, len(source))
  batches = data.eval_batches(
    source, size, config.image_size, crop=CROPS[config.crop]
  )
  batch = next(batches)
  labels = batch["label"] if model.num_classes else None

  @jax.jit
  def terms(params, key, x_0):
    denoiser = jd.clip_x_0(process, model.denoiser(params, labels))
    return jd.vlb_bits_per_dim(
      process, denoiser, key, x_0, model.variance, chunk=chunk
    ).terms

  found = terms(model.params, jax.random.key(seed), batch["image"])
  return np.asarray(found).mean(0)


def draw_terms(path: Path, terms: dict[str, list[float]]) -> None:
  """Fig. 2, on logarithmic axes."""
  figure, axes = new_figure()
  for name, values in terms.items():
    axes.plot(np.arange(1, len(values) + 1), values, label=name)
  axes.set(xlabel="t", ylabel="bits/dim", xscale="log", yscale="log")
  axes.legend(frameon=False)
  figure.savefig(path, dpi=120)


def ways(model: Model) -> dict[str, Sampling]:
  """How a model is sampled in Fig. 8, its number of steps still open."""
  objective = getattr(model.config, "objective", "simple")
  ddim = Sampling("ddim", grid="respaced")
  own = Sampling("ddpm", grid="respaced")
  if objective != "simple":
    return {f"L_{objective}": own, f"L_{objective}, DDIM": ddim}
  return {
    "L_simple, beta": dataclasses.replace(own, variance="large"),
    "L_simple, beta-tilde": dataclasses.replace(own, variance="small"),
    "L_simple, DDIM": ddim,
  }


def fid_of_steps(
  model: Model,
  scoring: Scoring,
  steps: Sequence[int],
  n: int,
  sampling_batch: int,
  directory: Path,
) -> dict[str, list[float]]:
  """FID of each way of sampling at each number of steps."""
  yardstick = make_yardstick(model.config, scoring)
  found: dict[str, list[float]] = {}
  for name, how in ways(model).items():
    found[name] = []
    for s in steps:
      here = directory / f"{name.replace(', ', '-')}-{s}"
      scores, _ = score_samples(
        model,
        dataclasses.replace(how, steps=s),
        yardstick,
        n,
        here,
        batch_size=sampling_batch,
      )
      found[name].append(scores["FID"].value)
  return found


def draw_fids(path: Path, steps: Sequence[int], fids: dict[str, list[float]]):
  """Fig. 8."""
  figure, axes = new_figure(6.0)
  for name, values in fids.items():
    dashed = "--" if name.endswith("DDIM") else "-"
    axes.plot(steps, values, dashed, marker="o", label=name)
  axes.set(xlabel="steps", ylabel="FID", xscale="log", yscale="log")
  axes.set_xticks(steps, [str(s) for s in steps], minor=False)
  axes.set_xticks([], minor=True)
  for kind in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
    kind("{x:g}")
  axes.legend(frameon=False)
  figure.savefig(path, dpi=120)


def main(
  weights: Sequence[str] = (),
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  steps: Sequence[int] = (25, 50, 100, 200, 400, 1000),
  n: int = 1000,
  sampling_batch: int = 64,
  bound_images: int = 64,
  bound_chunk: int = 1,
  out: str = "runs/iddpm-figures",
) -> None:
  """Draws the figures that need no model, and those of the models given.

  Args:
    weights: workdirs or released files, each of another objective.
    scoring: the protocol of FID.
    steps: numbers of steps of Fig. 8; those above T are left out.
    n: samples for each FID; 0 leaves Fig. 8 out.
    sampling_batch: images drawn at a time.
    bound_images: images of the test split for Fig. 2.
    bound_chunk: terms of the bound at a time.
    out: directory for the figures.
  """
  directory = Path(out)
  directory.mkdir(parents=True, exist_ok=True)
  draw_schedules(directory / "schedules.png")
  draw_variances(directory / "variances.png")
  terms: dict[str, list[float]] = {}
  fids: dict[str, list[float]] = {}
  loaded = [models.load(path) for path in weights]
  steps = [s for s in steps if all(s <= model.config.T for model in loaded)]
  for model in loaded:
    objective = getattr(model.config, "objective", "simple")
    values = bound_terms(model, bound_images, bound_chunk)
    terms[f"L_{objective}"] = [float(value) for value in values]
    if n:
      fids |= fid_of_steps(
        model, scoring, steps, n, sampling_batch, directory / "images"
      )
  if loaded:
    draw_terms(directory / "bound_terms.png", terms)
  if fids:
    draw_fids(directory / "fid_steps.png", steps, fids)
  numbers: dict[str, Any] = {"terms": terms, "steps": steps, "fid": fids}
  (directory / "figures.json").write_text(json.dumps(numbers) + "\n")
  print(f"figures: {directory}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
