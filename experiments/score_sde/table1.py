"""Score SDE Table 1: FID of predictors and correctors.

  python -m experiments.score_sde.table1 --weights ve/cifar10_ddpm:PATH
  python -m experiments.score_sde.table1 --weights runs/mnist5k_ve --n 500

One network, sampled in ten ways. P1000 takes 1000 steps of a predictor, P2000
twice as many, PC1000 1000 of both, C2000 two corrector steps at each of 1000
levels; every way ends with the estimate of x_0. The paper's networks are
DDPM's, trained at the levels of SMLD (VE) and DDPM (VP); its numbers are means
over five runs of 50,000 images. Levels between those trained at are
interpolated, as in the table. --steps scales the grid down.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

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
from experiments.plots import save_grid
from experiments.results import Claim, Row
from experiments.score_sde import model as models
from experiments.score_sde.sampling import (
  Predictor,
  ScoreSampling,
  evaluations,
  make_draw,
)

TITLE = "Score SDE Table 1 (FID)"
_COMMAND = "python -m experiments.score_sde.table1 --weights runs/"
COLUMNS = ("P1000", "P2000", "C2000", "PC1000")
_PAPER = {
  "ve": {
    "ancestral": ("4.98 ± .06", "4.88 ± .06", "–", "3.62 ± .03"),
    "reverse": ("4.79 ± .07", "4.74 ± .08", "–", "3.60 ± .02"),
    "flow": ("15.41 ± .15", "10.54 ± .08", "–", "3.51 ± .04"),
    "none": ("–", "–", "20.43 ± .07", "–"),
  },
  "vp": {
    "ancestral": ("3.24 ± .02", "3.24 ± .02", "–", "3.21 ± .02"),
    "reverse": ("3.21 ± .02", "3.19 ± .02", "–", "3.18 ± .01"),
    "flow": ("3.59 ± .04", "3.23 ± .03", "–", "3.06 ± .03"),
    "none": ("–", "–", "19.06 ± .06", "–"),
  },
  # Not in the paper, whose Table 1 has no sub-VP.
  "subvp": dict.fromkeys(
    ("ancestral", "reverse", "flow", "none"), ("", "", "", "")
  ),
}
# The paper's Table 5; VP's serve sub-VP.
SNR = {
  "ve": {"ancestral": 0.17, "reverse": 0.16, "flow": 0.17, "none": 0.22},
  "vp": {"ancestral": 0.01, "reverse": 0.01, "flow": 0.04, "none": 0.27},
}
PREDICTORS: tuple[Predictor, ...] = ("ancestral", "reverse", "flow", "none")
_NAMES = {
  "ancestral": "ancestral sampling",
  "reverse": "reverse diffusion",
  "flow": "probability flow",
  "none": "corrector only",
}


def row_name(sde: str, predictor: str) -> str:
  """As in `ROWS`."""
  return f"{sde.upper()}, {_NAMES[predictor]}"


ROWS = tuple(
  Row(
    row_name(sde, predictor),
    dict(zip(COLUMNS, numbers, strict=True)),
    _COMMAND + f"{sde}/cifar10_ddpm" + ("_continuous" * (sde == "subvp")),
  )
  for sde, table in _PAPER.items()
  for predictor, numbers in table.items()
)
NOTE = """
On `mnist5k`, 100 steps stand for the paper's 1000 and each number is of one
run; differences of a few tenths are within its noise. The networks, trained for
minutes, leave grain on the black around a digit. Corrector steps at the paper's
signal-to-noise ratios take a fifth of it away with VE (root mean square of the
top rows, P2000 against PC1000), and none with VP and sub-VP.
"""


def _claims(sde: str) -> tuple[Claim, ...]:
  corrects = tuple(
    Claim(
      f"{sde.upper()}, {_NAMES[p]}: a corrector is better than twice the steps",
      (row_name(sde, p), "PC1000"),
      (row_name(sde, p), "P2000"),
    )
    for p in ("ancestral", "reverse", "flow")
  )
  others = (
    Claim(
      f"{sde.upper()}: reverse diffusion beats ancestral sampling",
      (row_name(sde, "reverse"), "P1000"),
      (row_name(sde, "ancestral"), "P1000"),
    ),
    Claim(
      f"{sde.upper()}: correctors alone are worst",
      (row_name(sde, "flow"), "P1000"),
      (row_name(sde, "none"), "C2000"),
    ),
  )
  return (*corrects, *others)


CLAIMS = (*_claims("ve"), *_claims("vp"))


def way(sde: str, predictor: Predictor, column: str, n: int) -> ScoreSampling:
  """The sampler of a cell, with n for 1000 steps."""
  snr = SNR["ve" if sde == "ve" else "vp"][predictor]
  corrects = column in ("C2000", "PC1000")
  return ScoreSampling(
    predictor,
    "langevin" if corrects else "none",
    steps=2 * n if column == "P2000" else n,
    corrector_steps=2 if column == "C2000" else 1,
    snr=snr,
  )


def cells(predictor: Predictor) -> tuple[str, ...]:
  """The columns that a predictor has numbers in."""
  return ("C2000",) if predictor == "none" else ("P1000", "P2000", "PC1000")


def fitting(weights: models.Weights, steps: int) -> Model:
  """The model on a process of so many levels, if it is discrete."""
  config = weights[0]
  refine = max(1, steps // config.T)
  return models.as_model(*weights, models.make_process(config, refine))


def main(
  weights: str,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 1000,
  sampling_batch: int = 64,
  seed: int = 0,
  steps: int = 0,
  predictors: Sequence[Predictor] = PREDICTORS,
  out: str = "runs/score_sde-table1",
) -> None:
  """Samples and scores one checkpoint in all ways.

  Args:
    weights: a workdir, or NAME:PATH of a published checkpoint.
    scoring: the protocol of FID.
    n: images of each way.
    sampling_batch: images drawn at a time, which Langevin steps depend on.
    seed: of the noise, the same in all ways.
    steps: what stands for 1000; the configuration's T if 0.
    predictors: rows of the table.
    out: directory for images and results.
  """
  loaded = models.load(weights)
  config = loaded[0]
  steps = steps or config.T
  yardstick = make_yardstick(config, scoring)
  measured, shown = [], []
  for predictor in predictors:
    timer = results.Timer()
    ours: dict[str, str] = {}
    values: dict[str, float] = {}
    kept: dict[str, dict[str, object]] = {}
    counts = []
    for column in cells(predictor):
      how = way(config.sde, predictor, column, steps)
      model = fitting(loaded, how.steps)
      directory = Path(out) / f"{config.sde}-{predictor}-{column}"
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
      ours[column], values[column] = cell(found["FID"]), found["FID"].value
      counts.append(f"{column} {evaluations(model, how)}")
      kept |= {
        f"{name}, {column}": dataclasses.asdict(score)
        for name, score in found.items()
      }
      shown += images[:10]
    result = results.Result(
      TITLE,
      row_name(config.sde, predictor),
      ours,
      values,
      dataclasses.asdict(config),
      f"{n} samples, seed {seed}, batch {sampling_batch}, features "
      f"{yardstick.extractor.name}; NFE {', '.join(counts)}",
      timer.seconds(),
      kept,
    )
    results.save(result, out)
    measured.append(result)
    print(results.markdown(("predictor", *ours), [(predictor, *ours.values())]))
  rows = [r for r in ROWS if r.name.startswith(config.sde.upper() + ",")]
  text = results.table(TITLE, rows, measured)
  text += results.claims(TITLE, CLAIMS, measured)
  (Path(out) / "table1.md").write_text(text)
  save_grid(Path(out) / "table1.png", np.stack(shown), columns=min(n, 10))
  print(f"saved: {Path(out) / 'table1.md'}, table1.png: a row for each way")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
