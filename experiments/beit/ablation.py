"""What the paper's Tables 4 and 5 do: pre-train in several ways, and compare.

One model for each row and seed is pre-trained without labels and fine-tuned,
all alike; every training continues where it was stopped.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import results
from experiments.beit import (
  finetune,
  finetune_config,
  measuring,
  model,
  pretrain,
)
from experiments.beit.config import CONFIGS, Pretrain, smoke
from experiments.beit.finetune_config import Finetune
from experiments.checks import chosen_rows
from experiments.plots import new_figure
from experiments.results import Claim, Result, Row

# What a row changes in the configuration; "longer" multiplies its steps.
Changes = Mapping[str, Any]
COLUMN = "ImageNet"
# How each pre-training is fine-tuned.
FINETUNES = {
  "base_plain_in1k_300ep": "base_plain_in1k",
  "mnist5k": "mnist5k",
  "openmoji64_small": "openmoji64_small",
  "openmoji64": "openmoji64",
}


@dataclasses.dataclass(frozen=True)
class Table:
  """What is trained and measured.

  Attributes:
    config: the pre-training that is varied.
    rows: their names; all by default.
    seeds: of training; every row is trained with each, the spread is shown.
    labels: images to fine-tune with; 0 for all of the data set.
    finetune_steps: updates of fine-tuning; 0 for those of its recipe.
    finetune_batch_size: of fine-tuning; 0 for that of its recipe.
  """

  config: tyro.conf.OmitArgPrefixes[Pretrain]
  rows: tuple[str, ...] = ()
  seeds: tuple[int, ...] = (0,)
  labels: int = 0
  finetune_steps: int = 0
  finetune_batch_size: int = 0


def tables(small_labels: Mapping[str, int]) -> dict[str, tuple[str, Table]]:
  """The commands of a table; small data sets are fine-tuned with few labels."""
  return {
    name: (name, Table(CONFIGS[name], labels=small_labels.get(name, 0)))
    for name in FINETUNES
  }


def varied(config: Pretrain, changes: Changes, seed: int) -> Pretrain:
  """The pre-training of one row, shrunk if it is a smoke run."""
  fields = {"smoke": False, **changes}
  config = smoke(config) if config.smoke else config
  steps = round(config.steps * fields.pop("longer", 1))
  decay_steps = max(steps, config.decay_steps)
  return dataclasses.replace(
    config, steps=steps, decay_steps=decay_steps, seed=seed, **fields
  )


def finetuning(what: Table, pretrained: Pretrain, workdir: Path) -> Finetune:
  """How a row is fine-tuned, from this workdir."""
  recipe = finetune_config.CONFIGS[FINETUNES[what.config.name]]
  config = model.like(recipe, pretrained)
  if what.config.smoke:
    config = finetune_config.smoke(config)
  steps = what.finetune_steps or config.steps
  return dataclasses.replace(
    config,
    init=str(workdir),
    labels=what.labels,
    steps=steps,
    decay_steps=steps,
    warmup=min(config.warmup, steps // 2),
    batch_size=what.finetune_batch_size or config.batch_size,
    seed=pretrained.seed,
    dtype=pretrained.dtype,
    data_dir=pretrained.data_dir,
    num_workers=pretrained.num_workers,
  )


def measure(
  title: str, row: str, what: Table, config: Pretrain, workdir: Path
) -> Result:
  """Trains one model twice and judges it."""
  timer = results.Timer()
  config = dataclasses.replace(config, workdir=str(workdir / "pretrain"))
  pretrained = pretrain.train(config)
  tuning = finetuning(what, config, pretrained)
  tuning = dataclasses.replace(tuning, workdir=str(workdir / "finetune"))
  found = finetune.train(tuning)
  assert found is not None  # all recipes have a test split
  labels = what.labels or "all"
  protocol = (
    f"{config.steps} steps of {config.batch_size} without labels; fine-tuned "
    f"in {tuning.steps} of {tuning.batch_size} with {labels} labels; "
    f"{found.n} images of {tuning.test_split}; 95% interval (Wilson)"
  )
  fields = dataclasses.asdict(config)
  fields["tokenizer"] = Path(config.tokenizer).name
  return Result(
    title,
    row,
    {COLUMN: measuring.columns(found)["top-1"]},
    {COLUMN: 100 * found.top1},
    fields,
    protocol,
    timer.seconds(),
  )


def main(
  what: Table,
  title: str,
  rows: Sequence[Row],
  variants: Mapping[str, Changes],
  claims: Sequence[Claim],
  note: str = "",
) -> None:
  """Trains and measures the rows of a table, each with every seed.

  Raises:
    ValueError: a row has no such name.
  """
  chosen = chosen_rows(what.rows, variants)
  slug = "-".join(title.lower().split()[:3])
  root = Path(what.config.workdir or f"runs/{slug}-{what.config.name}")
  measured = []
  for name in chosen:
    for seed in what.seeds:
      print(f"{name}, seed {seed}", flush=True)
      config = varied(what.config, variants[name], seed)
      workdir = root / f"{name}-seed{seed}"
      measured.append(measure(title, name, what, config, workdir))
  measuring.publish(title, rows, claims, note, measured, root)
  plot(measured, root / "table.png")


def plot(measured: Sequence[Result], path: Path) -> None:
  """The accuracy of each row, one point per seed."""
  names = list(dict.fromkeys(r.row for r in measured))
  figure, axes = new_figure(6.5, 0.6 + 0.4 * len(names))
  for i, name in enumerate(names):
    found = [r.values[COLUMN] for r in measured if r.row == name]
    axes.plot(found, [i] * len(found), "o", alpha=0.7)
  axes.set_yticks(range(len(names)), names)
  axes.invert_yaxis()
  axes.set_xlabel("top-1 accuracy of the test split, %")
  figure.savefig(path, dpi=120)
