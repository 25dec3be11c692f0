"""NCSN's and NCSNv2's Table 1: Inception score and FID on CIFAR-10.

  python -m experiments.ncsn.table1 --weights ncsnv2/cifar10:PATH --n 50000
  python -m experiments.ncsn.table1 --weights runs/mnist5k --n 500

Annealed Langevin dynamics with and without the last denoising step. The papers
choose checkpoints by FID of 1000 samples.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tyro

import jaxgen.diffusion as jd
from experiments import results
from experiments.cli import command_line
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  cell,
  make_yardstick,
  score_samples,
)
from experiments.models import Model
from experiments.ncsn import model as models
from experiments.plots import save_grid
from experiments.results import Claim, Row
from experiments.sampling import Draw

TITLE = "NCSN Table 1"
_COMMAND = "python -m experiments.ncsn.table1 --weights runs/"
_PAPER = {
  "NCSN": ("ncsn/cifar10", "8.87 ± .12", "25.32"),
  "NCSN, denoised": ("ncsn/cifar10", "7.32 ± .12", "29.8"),
  "NCSNv2, not denoised": ("ncsnv2/cifar10", "8.73 ± .13", "31.75"),
  "NCSNv2": ("ncsnv2/cifar10", "8.40 ± .07", "10.87"),
}
ROWS = tuple(
  Row(name, {"IS": inception, "FID": fid}, _COMMAND + model)
  for name, (model, inception, fid) in _PAPER.items()
)
NOTE = ""
CLAIMS = (
  Claim(
    "denoising improves NCSNv2 (FID)",
    smaller=("NCSNv2", "FID"),
    larger=("NCSNv2, not denoised", "FID"),
  ),
  Claim(
    "NCSNv2 is better than NCSN (FID)",
    smaller=("NCSNv2", "FID"),
    larger=("NCSN", "FID"),
  ),
)


@dataclasses.dataclass(frozen=True)
class Annealed:
  """Annealed Langevin dynamics, with or without a last denoising."""

  denoise: bool


def make_draw(model: Model, how: Annealed) -> Draw:
  """The jitted (params, keys) -> images in [-1, 1], from uniform noise."""
  config, process = model.config, model.process
  size = config.image_size
  times = jd.descending_times(config.T, config.T)

  @jax.jit
  def draw(params, keys):
    denoiser = model.denoiser(params, None)
    sampler = models.make_sampler(config, process, denoiser, how.denoise)
    shape = (size, size, config.image_channels)
    uniform = lambda key: jax.random.uniform(key, shape, minval=-1.0)
    start = jax.vmap(lambda key: uniform(jax.random.fold_in(key, 2**30)))(keys)
    return jd.sample(keys, start, times, sampler)

  return draw


def main(
  weights: str,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 1000,
  sampling_batch: int = 64,
  seed: int = 0,
  denoised: Sequence[bool] = (False, True),
  out: str = "runs/ncsn-table1",
) -> None:
  """Samples and scores one checkpoint in both ways.

  Args:
    weights: a workdir, or NAME:PATH of a published checkpoint.
    scoring: the protocol.
    n: images of each way.
    sampling_batch: images drawn at a time.
    seed: of the noise.
    denoised: rows of the table.
    out: directory for images and results.
  """
  model = models.as_model(*models.load(weights))
  config = model.config
  yardstick = make_yardstick(config, scoring)
  names = ("NCSN", "NCSN, denoised")
  if not config.conditional:
    names = ("NCSNv2, not denoised", "NCSNv2")
  measured, shown = [], []
  for denoise in denoised:
    name = names[denoise]
    timer = results.Timer()
    how = Annealed(denoise)
    directory = Path(out) / ("denoised" if denoise else "plain")
    found, images = score_samples(
      model,
      how,
      yardstick,
      n,
      directory,
      seed,
      sampling_batch,
      make_draw(model, how),
    )
    evaluations = config.T * config.langevin_steps + denoise
    measured.append(
      results.Result(
        TITLE,
        name,
        {c: cell(found[c]) for c in ("IS", "FID")},
        {c: found[c].value for c in ("IS", "FID")},
        dataclasses.asdict(config),
        f"{n} samples, seed {seed}, NFE {evaluations}, features "
        f"{yardstick.extractor.name}",
        timer.seconds(),
        {c: dataclasses.asdict(score) for c, score in found.items()},
      )
    )
    results.save(measured[-1], out)
    shown += images[:10]
  text = results.table(TITLE, ROWS, measured)
  text += results.claims(TITLE, CLAIMS, measured)
  (Path(out) / "table1.md").write_text(text)
  save_grid(Path(out) / "table1.png", np.stack(shown), columns=min(n, 10))
  print(text)
  print(f"saved: {Path(out) / 'table1.md'}, table1.png")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
