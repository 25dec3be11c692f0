"""EDM Table 2: FID as score SDE's training is improved step by step.

  python -m experiments.edm.table2 cifar10 --samples 50000
  python -m experiments.edm.table2 cifar10_cond --samples 50000
  python -m experiments.edm.table2 cifar10 --samples 50000 --rows A-vp \\
    --weights vp/cifar10_ddpmpp_continuous:checkpoint.pth
  python -m experiments.edm.table2 mnist5k --steps 800 --samples 500 \\
    --rows C-vp D-vp E-vp F-vp --seeds 0 1 2

A is score SDE's training: the published network, which --weights names, or a
workdir of `experiments.score_sde.train`. B has EDM's batch size, learning rate
and dropout; C moves the network's capacity to its upper levels; D adds EDM's
preconditioning; E adds its loss; F adds its augmentation, in place of flips.
All are sampled by Heun's method in 18 steps, 35 calls of the network, at EDM's
levels, which for VE's networks of A, B and C end at 0.02. That D keeps the loss
of C is our reading of the paper's section 5. A small data set has one level and
so no row B.

The conditional column is of `cifar10_cond`, or of --num-classes. Its row A is
of no published network: the authors trained it. The paper's numbers are the
least of three runs of 50,000 samples; a run takes two days on 8 V100. Not run
on CIFAR-10.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import models, results
from experiments.cli import command_line
from experiments.edm import config as configs
from experiments.edm.config import Config
from experiments.edm.model import over_sigma
from experiments.edm.train import train
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  cell,
  make_yardstick,
  score_samples,
)
from experiments.plots import save_grid
from experiments.results import Claim, Result, Row
from experiments.sampling import Sampling

TITLE = "EDM Table 2 (CIFAR-10)"
CONDITIONAL, FID = "FID, conditional", "FID"
_PAPER = {
  "A-vp": ("2.48", "3.01"),
  "A-ve": ("3.11", "3.77"),
  "B-vp": ("2.18", "2.51"),
  "B-ve": ("2.48", "2.94"),
  "C-vp": ("2.08", "2.31"),
  "C-ve": ("2.52", "2.83"),
  "D-vp": ("2.09", "2.29"),
  "D-ve": ("2.64", "3.10"),
  "E-vp": ("1.88", "2.05"),
  "E-ve": ("1.86", "1.99"),
  "F-vp": ("1.79", "1.97"),
  "F-ve": ("1.79", "1.98"),
}
PUBLISHED = {
  "A-vp": "vp/cifar10_ddpmpp_continuous",
  "A-ve": "ve/cifar10_ncsnpp_continuous",
}
TRAINED = tuple(name for name in _PAPER if name not in PUBLISHED)


def _command(row: str) -> str:
  command = f"python -m experiments.edm.table2 cifar10 --rows {row}"
  if row in PUBLISHED:
    command += f" --weights {PUBLISHED[row]}:FILE"
  return command


ROWS = tuple(
  Row(name, {CONDITIONAL: conditional, FID: fid}, _command(name))
  for name, (conditional, fid) in _PAPER.items()
)
_LOWERS = (
  ("EDM's loss lowers FID", "E", "D"),
  ("preconditioning and loss together lower FID", "E", "C"),
  ("augmentation lowers FID", "F", "E"),
)
CLAIMS = tuple(
  Claim(f"{text} ({f}{kind})", (f"{low}-{f}", column), (f"{high}-{f}", column))
  for text, low, high in _LOWERS
  for column, kind in ((FID, ""), (CONDITIONAL, ", conditional"))
  for f in ("vp", "ve")
)
NOTE = (
  "\nThe column FID is the unconditional one; the other has cifar10_cond for "
  "cifar10, except that A's network is not published.\n"
)
HEUN = Sampling("edm_heun", 18, "karras", clip=False)


@dataclasses.dataclass(frozen=True)
class Table:
  """What is trained and measured.

  Attributes:
    config: the experiment that the rows vary.
    scoring: the protocol of FID.
    samples: for FID.
    sampling_batch: images drawn at a time.
    seeds: of training; every row is trained with each, and A not at all.
    rows: such as E-vp; all that are trained and fit the data set by default.
    weights: of row A, as `experiments.score_sde.model.load` takes them.
  """

  config: tyro.conf.OmitArgPrefixes[Config]
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING
  samples: int = 1000
  sampling_batch: int = 64
  seeds: tuple[int, ...] = (0,)
  rows: tuple[str, ...] = ()
  weights: str = ""


def variant(config: Config, row: str) -> Config:
  """The configuration of a row such as "C-vp"."""
  letter, formulation = row.split("-")
  changes: dict[str, Any] = {
    "formulation": formulation,
    "preconditioning": "original" if letter in "BC" else "edm",
    "loss": "edm" if letter in "EF" else "original",
  }
  if letter == "B":
    changes["channel_mult"] = (1, *config.channel_mult)
  if letter == "F":
    changes |= {"augment": config.augment or 0.12, "flip": False}
  return dataclasses.replace(config, **changes)


def measure(
  row: str, config: Config, what: Table
) -> tuple[Result, list[np.ndarray]]:
  """Trains one model and scores its samples; the result and the samples."""
  timer = results.Timer()
  protocol = f"{config.steps} steps of {config.batch_size}"
  try:
    workdir = train(config)
  except FloatingPointError as diverged:
    column = CONDITIONAL if config.num_classes else FID
    result = Result(
      TITLE,
      row,
      {column: "diverged"},
      {column: math.inf},
      dataclasses.asdict(config),
      f"{protocol}; {diverged}",
      timer.seconds(),
    )
    return result, []
  model = models.load(str(workdir))
  protocol = f"{model.config.steps} steps of {model.config.batch_size}"
  return score(row, model, what, workdir / "images", protocol, timer)


def published(
  row: str, what: Table, directory: Path
) -> tuple[Result, list[np.ndarray]]:
  """Scores the samples of row A's network.

  Raises:
    ValueError: no weights are named, or they are not the row's SDE.
  """
  if not what.weights:
    raise ValueError(
      f"row {row} needs --weights, such as {PUBLISHED[row]}:FILE"
    )
  timer = results.Timer()
  model = models.load(what.weights)
  if getattr(model.config, "sde", None) != row.partition("-")[2]:
    raise ValueError(f"row {row} is of another SDE than {what.weights}")
  protocol = f"weights {Path(what.weights).name}"
  return score(row, over_sigma(model), what, directory, protocol, timer)


def score(
  row: str,
  model: models.Model,
  what: Table,
  directory: Path,
  protocol: str,
  timer: results.Timer,
) -> tuple[Result, list[np.ndarray]]:
  """Samples a model and scores it; the result and the samples."""
  found, images = score_samples(
    model,
    HEUN,
    make_yardstick(model.config, what.scoring),
    what.samples,
    directory,
    batch_size=what.sampling_batch,
  )
  column = CONDITIONAL if model.num_classes else FID
  features = found["FID"].protocol.features
  result = Result(
    TITLE,
    row,
    {column: cell(found["FID"])},
    {column: found["FID"].value},
    dataclasses.asdict(model.config),
    f"{protocol}; {what.samples} samples, features {features}",
    timer.seconds(),
    {name: dataclasses.asdict(s) for name, s in found.items()},
  )
  return result, images


def main(what: Table) -> None:
  """Trains and measures the rows.

  Raises:
    ValueError: a row has no such name, or row A no weights.
  """
  config = what.config
  several = len(config.channel_mult) > 1
  chosen = what.rows or tuple(n for n in TRAINED if several or n[0] != "B")
  if unknown := set(chosen) - set(_PAPER):
    raise ValueError(
      f"the rows are {', '.join(_PAPER)}; got {', '.join(sorted(unknown))}"
    )
  root = Path(config.workdir or f"runs/edm-table2-{config.name}")
  measured: list[Result] = []
  shown: list[np.ndarray] = []
  for row in chosen:
    for seed in (0,) if row in PUBLISHED else what.seeds:
      print(f"{row}, seed {seed}", flush=True)
      if row in PUBLISHED:
        result, images = published(row, what, root / row / "images")
      else:
        place = str(root / f"{row}-seed{seed}")
        here = variant(config, row)
        here = dataclasses.replace(here, seed=seed, workdir=place)
        result, images = measure(row, here, what)
      results.save(result, root)
      measured.append(result)
      shown += images[:8]
  text = results.table(TITLE, ROWS, measured)
  text += results.averages(TITLE, measured)
  text += results.claims(TITLE, CLAIMS, measured) + NOTE
  (root / "table2.md").write_text(text)
  if shown:
    save_grid(root / "table2.png", np.stack(shown), columns=8)
  print(text)
  print(f"saved: {root / 'table2.md'}, table2.png: a row for each model")


if __name__ == "__main__":
  named = {
    name: (name, Table(config)) for name, config in configs.CONFIGS.items()
  }
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
