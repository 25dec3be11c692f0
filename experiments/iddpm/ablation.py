"""Schedule x objective, which the paper's Tables 1 and 2 measure alike.

Trains one model for each row and seed (each continues where it was stopped),
bounds its likelihood in bits per dimension on the test split, and scores
samples drawn with all T steps or fewer.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro

from experiments import models, results
from experiments.checks import chosen_rows
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  cell,
  make_yardstick,
  score_samples,
)
from experiments.iddpm.config import Config
from experiments.iddpm.train import train
from experiments.likelihood import bits_per_dim
from experiments.plots import new_figure
from experiments.results import Claim, Result, Row
from experiments.sampling import Sampling


class Variant(NamedTuple):
  """What a row changes in the configuration.

  Attributes:
    schedule: of beta.
    objective: of training.
    part: T is the configuration's, divided by this: 4 for the rows of 1K steps.
    longer: the configuration's number of updates is multiplied by this.
  """

  schedule: Literal["linear", "cosine"]
  objective: Literal["simple", "hybrid", "vlb"]
  part: int = 1
  longer: float = 1.0


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How much is measured.

  Attributes:
    seeds: of training; every row is trained with each, the spread is shown.
    bound_images: images of the test split for the bound.
    bound_chunk: terms of the bound computed at a time.
    samples: for FID; 0 leaves it out.
    sampling_steps: of the samples, respaced; 0 for all T, as in the paper.
    sampling_batch: images drawn at a time.
  """

  seeds: tuple[int, ...] = (0,)
  bound_images: int = 1000
  bound_chunk: int = 1
  samples: int = 1000
  sampling_steps: int = 0
  sampling_batch: int = 64


@dataclasses.dataclass(frozen=True)
class Table:
  """What is trained and measured.

  Attributes:
    config: the experiment whose T, schedule and objective are varied; its own T
      is that of the rows "4K", a quarter of it that of the row "1K".
    scoring: the protocol of FID.
    sizes: how much is measured.
    rows: names of the rows, such as 4K-cosine-hybrid; all by default.
  """

  config: tyro.conf.OmitArgPrefixes[Config]
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING
  sizes: tyro.conf.OmitArgPrefixes[Sizes] = Sizes()
  rows: tuple[str, ...] = ()


def stated(prefix: str = "") -> tuple[Claim, ...]:
  """What the paper concludes from both tables, of rows with this prefix."""

  def claim(text: str, smaller: str, larger: str, column: str = "NLL") -> Claim:
    return Claim(text, (prefix + smaller, column), (prefix + larger, column))

  return (
    claim("a longer chain lowers NLL", "4K-linear-simple", "1K-linear-simple"),
    claim(
      "cosine betas lower NLL under L_simple",
      "4K-cosine-simple",
      "4K-linear-simple",
    ),
    claim(
      "L_hybrid lowers NLL at linear betas",
      "4K-linear-hybrid",
      "4K-linear-simple",
    ),
    claim(
      "L_hybrid lowers NLL at cosine betas",
      "4K-cosine-hybrid",
      "4K-cosine-simple",
    ),
    claim(
      "cosine betas with L_hybrid lower NLL against linear with L_simple",
      "4K-cosine-hybrid",
      "4K-linear-simple",
    ),
    claim(
      "L_vlb has a lower NLL than L_hybrid", "4K-cosine-vlb", "4K-cosine-hybrid"
    ),
    claim(
      "L_vlb has a worse FID than L_hybrid",
      "4K-cosine-hybrid",
      "4K-cosine-vlb",
      "FID",
    ),
  )


def variant_config(config: Config, variant: Variant, seed: int) -> Config:
  """The configuration of one row.

  CIFAR-10's dropout of 0.3 goes with the cosine schedule; with linear betas
  the paper trained with 0.1.
  """
  linear = variant.schedule == "linear"
  return dataclasses.replace(
    config,
    schedule=variant.schedule,
    objective=variant.objective,
    T=max(1, config.T // variant.part),
    dropout=min(config.dropout, 0.1) if linear else config.dropout,
    steps=round(config.steps * variant.longer),
    seed=seed,
  )


def measure(
  title: str, row: str, config: Config, scoring: Scoring, sizes: Sizes
) -> Result:
  """Trains one model, bounds its likelihood and scores its samples."""
  timer = results.Timer()
  ours: dict[str, str] = {}
  values: dict[str, float] = {}
  scores: dict[str, dict[str, object]] = {}
  try:
    workdir = train(config)
  except FloatingPointError as diverged:
    ours["NLL"], values["NLL"] = "diverged", math.inf
    protocol = f"T = {config.T}, {config.steps} steps; {diverged}"
    return Result(
      title,
      row,
      ours,
      values,
      dataclasses.asdict(config),
      protocol,
      timer.seconds(),
    )
  model = models.load(str(workdir))
  split, n = model.config.test_split, sizes.bound_images
  mean, error = bits_per_dim(model, split, n, chunk=sizes.bound_chunk)
  ours["NLL"], values["NLL"] = f"{mean:.3f} ± {error:.3f}", mean
  protocol = (
    f"T = {model.config.T}, {model.config.steps} steps of "
    f"{model.config.batch_size}; bound: first {n} images of {split}"
  )
  if sizes.samples:
    steps = sizes.sampling_steps or model.config.T
    found, _ = score_samples(
      model,
      Sampling(steps=steps, grid="respaced"),
      make_yardstick(model.config, scoring),
      sizes.samples,
      workdir / "images",
      batch_size=sizes.sampling_batch,
    )
    scores = {name: dataclasses.asdict(s) for name, s in found.items()}
    ours["FID"], values["FID"] = cell(found["FID"]), found["FID"].value
    features = found["FID"].protocol.features
    protocol += (
      f"; {sizes.samples} samples in {steps} steps, features {features}"
    )
  return Result(
    title,
    row,
    ours,
    values,
    dataclasses.asdict(model.config),
    protocol,
    timer.seconds(),
    scores,
  )


def main(
  what: Table,
  title: str,
  rows: Sequence[Row],
  variants: dict[str, Variant],
  claims: Sequence[Claim],
) -> None:
  """Trains and measures the rows of a table, each with every seed.

  Raises:
    ValueError: a row has no such name.
  """
  chosen = chosen_rows(what.rows, variants)
  slug = title.lower().replace(" ", "-")
  root = Path(what.config.workdir or f"runs/{slug}-{what.config.name}")
  measured = []
  for name in chosen:
    for seed in what.sizes.seeds:
      config = variant_config(what.config, variants[name], seed)
      workdir = str(root / f"{name}-seed{seed}")
      config = dataclasses.replace(config, workdir=workdir)
      print(f"{name}, seed {seed}", flush=True)
      result = measure(title, name, config, what.scoring, what.sizes)
      results.save(result, root)
      measured.append(result)
  text = results.table(title, rows, measured)
  text += results.averages(title, measured)
  text += results.claims(title, claims, measured)
  (root / "table.md").write_text(text)
  plot(measured, root / "table.png")
  print(text)
  print(f"saved: {root / 'table.md'}, table.png")


def plot(measured: Sequence[Result], path: Path) -> None:
  """The NLL of each row, one point per seed."""
  names = list(dict.fromkeys(r.row for r in measured))
  figure, axes = new_figure(6.5, 0.6 + 0.4 * len(names))
  for i, name in enumerate(names):
    found = [r.values["NLL"] for r in measured if r.row == name]
    finite = [value for value in found if np.isfinite(value)]
    axes.plot(finite, [i] * len(finite), "o", alpha=0.7)
  axes.set_yticks(range(len(names)), names)
  axes.invert_yaxis()
  axes.set_xlabel("NLL of the test split, bits/dim")
  figure.savefig(path, dpi=120)
