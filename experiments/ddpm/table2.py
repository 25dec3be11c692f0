"""DDPM Table 2: prediction target x loss x variance on CIFAR-10.

  python -m experiments.ddpm.table2 cifar10 --workdir runs/table2
  python -m experiments.ddpm.table2 mnist5k --workdir runs/table2-mnist5k

Trains the six models one after another (each continues where it was stopped)
and prints the bound of each in bits per dimension, with the paper's Inception
score and FID beside it; those columns this script does not compute yet. The
paper's rows "–" were unstable to train: a run that diverges is reported so.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import results
from experiments.cli import command_line
from experiments.ddpm import config as configs
from experiments.ddpm import model
from experiments.ddpm.config import Config
from experiments.ddpm.evaluate import bits_per_dim
from experiments.ddpm.train import train
from experiments.results import Row

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


def measure(config: Config, row: Row, n: int) -> results.Result:
  """Trains one row's model and bounds its likelihood."""
  timer = results.Timer()
  protocol = f"{config.steps} steps, seed {config.seed}"
  try:
    workdir = train(config)
  except FloatingPointError as diverged:
    ours = {"NLL test": "diverged"}
    protocol += f"; {diverged}"
  else:
    config, unet, params = model.load(str(workdir))
    mean, error = bits_per_dim(config, unet, params, config.test_split, n)
    ours = {"NLL test": f"≤ {mean:.3f} ± {error:.3f}"}
    protocol += f", first {n} images of {config.test_split}"
  return results.Result(
    TITLE,
    row.name,
    ours,
    dataclasses.asdict(config),
    protocol,
    timer.seconds(),
  )


def main(config: Config, n: int = 1000, rows: Sequence[Row] = ROWS) -> None:
  """Trains and measures the table's models.

  Args:
    config: the experiment whose target, loss and variance are varied.
    n: images of the test split for the bound.
    rows: which; all six by default.
  """
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
    measured.append(measure(variant, row, n))
    results.save(measured[-1], root)
  text = results.table(TITLE, ROWS, measured)
  (root / "table2.md").write_text(text)
  print(text)


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
