"""What the tables of classification share: a checkpoint becomes a row."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments import results
from experiments.beit import evaluate
from experiments.beit.accuracy import Accuracy
from experiments.beit.finetune import judge
from experiments.results import Claim, Result, Row


def columns(found: Accuracy, column: str = "top-1") -> dict[str, str]:
  """The cells of a row: top-1 with its interval, in percent."""
  low, high = found.interval()
  top1 = f"{100 * found.top1:.2f} ({100 * low:.2f} to {100 * high:.2f})"
  return {column: top1, "top-5": f"{100 * found.top5:.2f}"}


def values(found: Accuracy, column: str = "top-1") -> dict[str, float]:
  """The same as numbers, in percent."""
  return {column: 100 * found.top1, "top-5": 100 * found.top5}


def measure(title: str, row: str, weights: str, batch_size: int = 0) -> Result:
  """Evaluates a classifier for a row.

  Args:
    title: of the table.
    row: of the table.
    weights: see `evaluate.load`.
    batch_size: images at a time; see `evaluate.main`.
  """
  timer = results.Timer()
  config, network, params = evaluate.load(weights)
  if batch_size:
    config = dataclasses.replace(config, batch_size=batch_size)
  found = judge(config, network, params)
  fields = dataclasses.asdict(config) | {"init": Path(config.init).name}
  split = f"{config.test_dataset or config.dataset}:{config.test_split}"
  protocol = f"{found.n} images of {split}; 95% interval (Wilson)"
  return Result(
    title,
    row,
    columns(found),
    values(found),
    fields,
    protocol,
    timer.seconds(),
  )


def publish(
  title: str,
  rows: Sequence[Row],
  claims: Sequence[Claim],
  note: str,
  measured: Sequence[Result],
  out: str | Path,
) -> None:
  """Saves results and prints the table."""
  for result in measured:
    print(f"saved: {results.save(result, out)}")
  text = results.table(title, rows, measured)
  text += results.averages(title, measured)
  text += results.claims(title, claims, measured) + note
  path = Path(out) / "table.md"
  path.write_text(text)
  print(text)
  print(f"saved: {path}")
