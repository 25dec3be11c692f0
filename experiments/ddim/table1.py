"""DDIM Table 1: FID for eta x S on CIFAR-10 and CelebA.

  python -m experiments.ddim.table1 --weights ddpm-ema-cifar10 --n 50000
  python -m experiments.ddim.table1 --weights runs/mnist5k --n 500

One network, sampled in 25 ways from the same x_T. The paper's numbers take
50,000 images each; the official code's run of S = 100 with eta = 0 gave 4.26.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from experiments import models, results
from experiments.cli import command_line
from experiments.ddim.sampling import ETAS, STEPS, sampling
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  cell,
  make_yardstick,
  score_samples,
)
from experiments.plots import save_grid
from experiments.results import Claim, Row

TITLE = "DDIM Table 1 (FID)"
_COMMAND = "python -m experiments.ddim.table1 --weights runs/"
_PAPER = {
  "cifar10": {
    "0.0": ("13.36", "6.84", "4.67", "4.16", "4.04"),
    "0.2": ("14.04", "7.11", "4.77", "4.25", "4.09"),
    "0.5": ("16.66", "8.35", "5.25", "4.46", "4.29"),
    "1.0": ("41.07", "18.36", "8.01", "5.78", "4.73"),
    "sigma-hat": ("367.43", "133.37", "32.72", "9.99", "3.17"),
  },
  "celeba64": {
    "0.0": ("17.33", "13.73", "9.17", "6.53", "3.51"),
    "0.2": ("17.66", "14.11", "9.51", "6.79", "3.64"),
    "0.5": ("19.86", "16.06", "11.01", "8.09", "4.28"),
    "1.0": ("33.12", "26.03", "18.48", "13.93", "5.98"),
    "sigma-hat": ("299.71", "183.83", "71.71", "45.20", "3.26"),
  },
}
COLUMNS = tuple(f"S = {steps}" for steps in STEPS)
ROWS = tuple(
  Row(
    f"{name}, eta = {eta}",
    dict(zip(COLUMNS, numbers, strict=True)),
    _COMMAND + name,
  )
  for name, table in _PAPER.items()
  for eta, numbers in table.items()
)


def _claim(text: str, smaller: tuple[str, int], larger: tuple[str, int]):
  cells = [
    (f"cifar10, eta = {eta}", f"S = {s}") for eta, s in (smaller, larger)
  ]
  return Claim(text, *cells)


NOTE = ""
CLAIMS = (
  _claim("eta = 0 beats eta = 1 at S = 10", ("0.0", 10), ("1.0", 10)),
  _claim("eta = 0 beats eta = 1 at S = 50", ("0.0", 50), ("1.0", 50)),
  _claim("sigma-hat is worst at S = 10", ("1.0", 10), ("sigma-hat", 10)),
  _claim("sigma-hat is best at S = 1000", ("sigma-hat", 1000), ("0.0", 1000)),
  _claim("eta = 0 gains little after 100 steps", ("0.0", 100), ("0.0", 10)),
)


def main(
  weights: str,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 1000,
  sampling_batch: int = 64,
  seed: int = 0,
  etas: Sequence[str] = ETAS,
  steps: Sequence[int] = STEPS,
  out: str = "runs/ddim-table1",
) -> None:
  """Samples and scores one checkpoint in all ways.

  Args:
    weights: a workdir, or published weights.
    scoring: the protocol of FID.
    n: images of each way.
    sampling_batch: images drawn at a time.
    seed: of the noise, the same in all ways.
    etas: numbers, or "sigma-hat".
    steps: the S, of the paper's 10, 20, 50, 100, 1000.
    out: directory for images and results.
  """
  model = models.load(weights)
  config = model.config
  yardstick = make_yardstick(config, scoring)
  table = "celeba64" if config.dataset == "celeb_a" else "cifar10"
  measured, shown = [], []
  for eta in etas:
    timer = results.Timer()
    ours: dict[str, str] = {}
    values: dict[str, float] = {}
    kept: dict[str, dict[str, object]] = {}
    for s in steps:
      column = f"S = {s}"
      directory = Path(out) / f"eta-{eta}-S-{s}"
      how = sampling(config, s, eta)
      found, images = score_samples(
        model, how, yardstick, n, directory, seed, sampling_batch
      )
      ours[column], values[column] = cell(found["FID"]), found["FID"].value
      kept |= {
        f"{name}, {column}": dataclasses.asdict(score)
        for name, score in found.items()
      }
      shown += images[:10]
    result = results.Result(
      TITLE,
      f"{table}, eta = {eta}",
      ours,
      values,
      dataclasses.asdict(config),
      f"{n} samples, seed {seed}, features {yardstick.extractor.name}",
      timer.seconds(),
      kept,
    )
    results.save(result, out)
    measured.append(result)
    print(results.markdown(("eta", *ours), [(eta, *ours.values())]))
  rows = [r for r in ROWS if r.name.startswith(table)]
  text = results.table(TITLE, rows, measured)
  text += results.claims(TITLE, CLAIMS, measured)
  (Path(out) / "table1.md").write_text(text)
  save_grid(Path(out) / "table1.png", np.stack(shown), columns=min(n, 10))
  print(f"saved: {Path(out) / 'table1.md'}, table1.png: a row for each way")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
