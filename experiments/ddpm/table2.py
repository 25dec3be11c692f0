"""DDPM Table 2: prediction target x loss x variance on CIFAR-10.

  python -m experiments.ddpm.table2 cifar10 --workdir runs/table2
  python -m experiments.ddpm.table2 mnist5k --workdir runs/table2-mnist5k

Trains the six models one after another (each continues where it was stopped)
and prints Inception score, FID and the bound of each in bits per dimension. The
paper's rows "–" were unstable to train: a run that diverges is reported so.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import models, results
from experiments.cli import command_line
from experiments.ddpm import config as configs
from experiments.ddpm.config import Config
from experiments.ddpm.train import train
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  cell,
  make_yardstick,
  score_samples,
)
from experiments.likelihood import bits_per_dim
from experiments.results import Claim, Row
from experiments.sampling import Sampling

TITLE = "DDPM Table 2"
_COMMAND = "python -m experiments.ddpm.table2 cifar10"
ROWS = tuple(
  Row(name, {"IS": inception, "FID": fid, "NLL test": ""}, _COMMAND)
  for name, inception, fid in (
    ("mean: L, learned diagonal", "7.28 ± 0.10", "23.69"),
    ("mean: L, fixed isotropic", "8.06 ± 0.09", "13.22"),
    ("mean: simple", "–", "–"),
    ("eps: L, learned diagonal", "–", "–"),
    ("eps: L, fixed isotropic", "7.67 ± 0.13", "13.51"),
    ("eps: simple", "9.46 ± 0.11", "3.17"),
  )
)
# (target, loss, variance) of each row; None keeps the data set's own variance.
_MODELS: tuple[Any, ...] = tuple(
  (target, loss, variance)
  for target in ("mean", "eps")
  for loss, variance in (
    ("bound", "learned"),
    ("bound", None),
    ("simple", None),
  )
)
NOTE = """
On `mnist5k` the four models that predict the mean or learn the variance still
sample noise after their 1,100 updates (IS 1.00): a mean must be right to a
small share of the step's own noise before samples show it. Verdicts on them are
about short training.
"""
CLAIMS = (
  Claim(
    "a fixed variance gives better samples than a learned one (FID)",
    smaller=("mean: L, fixed isotropic", "FID"),
    larger=("mean: L, learned diagonal", "FID"),
  ),
  Claim(
    "predicting the mean works with the bound, not with the simple loss (FID)",
    smaller=("mean: L, fixed isotropic", "FID"),
    larger=("mean: simple", "FID"),
  ),
  Claim(
    "predicting eps with the simple loss is much better than with the bound "
    "(FID)",
    smaller=("eps: simple", "FID"),
    larger=("eps: L, fixed isotropic", "FID"),
  ),
)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How much is measured.

  Attributes:
    bound_images: images of the test split for the bound.
    samples: for Inception score and FID.
    sampling_batch: images drawn at a time.
  """

  bound_images: int = 1000
  samples: int = 1000
  sampling_batch: int = 64


def measure(
  config: Config, row: Row, scoring: Scoring, sizes: Sizes
) -> results.Result:
  """Trains one row's model, bounds its likelihood and scores its samples."""
  timer = results.Timer()
  protocol = f"{config.steps} steps, seed {config.seed}"
  try:
    workdir = train(config)
  except FloatingPointError as diverged:
    ours, values, scores = {"NLL test": "diverged"}, {"FID": math.inf}, {}
    protocol += f"; {diverged}"
  else:
    model = models.load(str(workdir))
    mean, error = bits_per_dim(model, config.test_split, sizes.bound_images)
    found, _ = score_samples(
      model,
      Sampling(steps=model.config.T),
      make_yardstick(config, scoring),
      sizes.samples,
      workdir / "images",
      batch_size=sizes.sampling_batch,
    )
    ours = {
      "IS": cell(found["IS"]),
      "FID": cell(found["FID"]),
      "NLL test": f"≤ {mean:.3f} ± {error:.3f}",
    }
    values = {name: found[name].value for name in ("IS", "FID")}
    values["NLL test"] = mean
    scores = {name: dataclasses.asdict(s) for name, s in found.items()}
    protocol += (
      f"; bound: first {sizes.bound_images} images of {config.test_split}; "
      f"{sizes.samples} samples, features {found['FID'].protocol.features}"
    )
  return results.Result(
    TITLE,
    row.name,
    ours,
    values,
    dataclasses.asdict(config),
    protocol,
    timer.seconds(),
    scores,
  )


@dataclasses.dataclass(frozen=True)
class Table:
  """What is trained and measured.

  Attributes:
    config: the experiment whose target, loss and variance are varied.
    scoring: the protocol of Inception score and FID.
    sizes: how much is measured.
  """

  config: tyro.conf.OmitArgPrefixes[Config]
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING
  sizes: tyro.conf.OmitArgPrefixes[Sizes] = Sizes()


def main(what: Table, rows: Sequence[Row] = ROWS) -> None:
  """Trains and measures the table's models, all six by default."""
  config = what.config
  root = Path(config.workdir or f"runs/{config.name}-table2")
  measured = []
  for row in rows:
    target, loss, variance = _MODELS[ROWS.index(row)]
    variant = dataclasses.replace(
      config,
      target=target,
      loss=loss,
      variance=variance or config.variance,
      workdir=str(root / f"{target}-{loss}-{variance or 'fixed'}"),
    )
    print(row.name)
    measured.append(measure(variant, row, what.scoring, what.sizes))
    results.save(measured[-1], root)
  text = results.table(TITLE, ROWS, measured)
  text += results.claims(TITLE, CLAIMS, measured)
  (root / "table2.md").write_text(text)
  print(text)


if __name__ == "__main__":
  named = {
    name: (name, Table(config)) for name, config in configs.CONFIGS.items()
  }
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
