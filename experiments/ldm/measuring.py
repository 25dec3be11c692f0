"""What the tables of latent diffusion share: samples of one model, scored."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import results
from experiments.evaluate import Scoring, cell, make_yardstick, score_samples
from experiments.models import Model
from experiments.plots import save_grid
from experiments.results import Row
from experiments.sampling import Given, Sampling

# Column of a table: the score that stands in it.
SCORES = {"FID": "FID", "IS": "IS", "Prec.": "precision", "Recall": "recall"}


@dataclasses.dataclass(frozen=True)
class Measuring:
  """How a row is measured.

  Attributes:
    n: images; the paper takes 50,000.
    sampling_batch: images drawn at a time.
    seed: of the images.
    out: directory for images and results.
  """

  n: int = 1000
  sampling_batch: int = 64
  seed: int = 0
  out: str = "runs/ldm-tables"


DEFAULT = Measuring()


def measure(
  title: str,
  rows: Sequence[Row],
  row: Row,
  model: Model,
  how: Sampling,
  scoring: Scoring,
  measuring: Measuring,
  given: Given | None = None,
) -> results.Result:
  """Samples a model, scores it and saves the row with a grid of its images.

  Args:
    title: of the table.
    rows: of the table, to print.
    row: that is measured.
    model: whose samples are scored.
    how: the sampler.
    scoring: the protocol; by default against the model's training split.
    measuring: how many images.
    given: what image i is conditional on.
  """
  timer = results.Timer()
  yardstick = make_yardstick(model.config, scoring)
  found, images = score_samples(
    model,
    how,
    yardstick,
    measuring.n,
    Path(measuring.out) / row.name / "images",
    measuring.seed,
    measuring.sampling_batch,
    given=given,
  )
  columns = {
    column: found[SCORES[column]]
    for column in row.paper
    if SCORES.get(column) in found
  }
  result = results.Result(
    title,
    row.name,
    {column: cell(score) for column, score in columns.items()},
    {column: score.value for column, score in columns.items()},
    dataclasses.asdict(model.config),
    f"{measuring.n} samples, {how.steps} steps of {how.sampler}, eta "
    f"{how.eta}, guidance {how.guidance}, features "
    f"{found['FID'].protocol.features}",
    timer.seconds(),
    {name: dataclasses.asdict(score) for name, score in found.items()},
  )
  path = results.save(result, measuring.out)
  text = results.table(title, rows, [result])
  path.with_suffix(".md").write_text(text)
  save_grid(path.with_suffix(".png"), np.stack(images[:64]), columns=8)
  print(text)
  print(f"saved: {path}")
  return result
