"""EDM Table 2: FID as score SDE's training is improved step by step.

  python -m experiments.edm.table2 cifar10 --samples 50000
  python -m experiments.edm.table2 mnist5k --steps 800 --samples 500 \\
    --rows C-vp D-vp E-vp --seeds 0 1 2

B has EDM's batch size, learning rate and dropout; C moves the network's
capacity to its upper levels; D adds EDM's preconditioning; E adds its loss. All
are sampled by Heun's method in 18 steps, 35 calls of the network. A, the
published networks of score SDE, and F, the augmentation, are not built; nor is
class conditioning: the rows here are unconditional. That D keeps the loss of C
is our reading of the paper's section 5. A small data set has one level and so
no row B. The paper's numbers are the least of three runs of 50,000 samples; a
run takes two days on 8 V100. Not run on CIFAR-10.
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
BUILT = tuple(name for name in _PAPER if name[0] in "BCDE")
ROWS = tuple(
  Row(
    name,
    {CONDITIONAL: conditional, FID: fid},
    f"python -m experiments.edm.table2 cifar10 --rows {name}"
    if name in BUILT
    else "not built",
  )
  for name, (conditional, fid) in _PAPER.items()
)
CLAIMS = (
  *(
    Claim(f"EDM's loss lowers FID ({f})", (f"E-{f}", FID), (f"D-{f}", FID))
    for f in ("vp", "ve")
  ),
  *(
    Claim(
      f"preconditioning and loss together lower FID ({f})",
      (f"E-{f}", FID),
      (f"C-{f}", FID),
    )
    for f in ("vp", "ve")
  ),
)
NOTE = "\nThe column FID is the unconditional one.\n"
HEUN = Sampling("edm_heun", 18, "karras", clip=False)


@dataclasses.dataclass(frozen=True)
class Table:
  """What is trained and measured.

  Attributes:
    config: the experiment that the rows vary.
    scoring: the protocol of FID.
    samples: for FID.
    sampling_batch: images drawn at a time.
    seeds: of training; every row is trained with each.
    rows: such as E-vp; all that fit the data set by default.
  """

  config: tyro.conf.OmitArgPrefixes[Config]
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING
  samples: int = 1000
  sampling_batch: int = 64
  seeds: tuple[int, ...] = (0,)
  rows: tuple[str, ...] = ()


def variant(config: Config, row: str) -> Config:
  """The configuration of a row such as "C-vp"."""
  letter, formulation = row.split("-")
  changes: dict[str, Any] = {
    "formulation": formulation,
    "preconditioning": "original" if letter in "BC" else "edm",
    "loss": "edm" if letter == "E" else "original",
  }
  if letter == "B":
    changes["channel_mult"] = (1, *config.channel_mult)
  return dataclasses.replace(config, **changes)


def measure(
  row: str, config: Config, what: Table
) -> tuple[Result, list[np.ndarray]]:
  """Trains one model and scores its samples; the result and the samples."""
  timer = results.Timer()
  images: list[np.ndarray] = []
  scores: dict[str, dict[str, object]] = {}
  protocol = f"{config.steps} steps of {config.batch_size}"
  try:
    workdir = train(config)
  except FloatingPointError as diverged:
    ours, values = {FID: "diverged"}, {FID: math.inf}
    protocol += f"; {diverged}"
  else:
    model = models.load(str(workdir))
    config = model.config
    found, images = score_samples(
      model,
      HEUN,
      make_yardstick(config, what.scoring),
      what.samples,
      workdir / "images",
      batch_size=what.sampling_batch,
    )
    ours, values = {FID: cell(found["FID"])}, {FID: found["FID"].value}
    scores = {name: dataclasses.asdict(s) for name, s in found.items()}
    protocol = (
      f"{config.steps} steps of {config.batch_size}; {what.samples} samples, "
      f"features {found['FID'].protocol.features}"
    )
  result = Result(
    TITLE,
    row,
    ours,
    values,
    dataclasses.asdict(config),
    protocol,
    timer.seconds(),
    scores,
  )
  return result, images


def main(what: Table) -> None:
  """Trains and measures the rows.

  Raises:
    ValueError: a row has no such name, or is not built.
  """
  config = what.config
  several = len(config.channel_mult) > 1
  chosen = what.rows or tuple(n for n in BUILT if several or n[0] != "B")
  if unknown := set(chosen) - set(BUILT):
    raise ValueError(
      f"the rows are {', '.join(BUILT)}; got {', '.join(sorted(unknown))}"
    )
  root = Path(config.workdir or f"runs/edm-table2-{config.name}")
  measured: list[Result] = []
  shown: list[np.ndarray] = []
  for row in chosen:
    for seed in what.seeds:
      here = dataclasses.replace(
        variant(config, row), seed=seed, workdir=str(root / f"{row}-seed{seed}")
      )
      print(f"{row}, seed {seed}", flush=True)
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
