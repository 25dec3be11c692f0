"""What the replicas in small share: parts of a command, means over seeds."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import results
from experiments.beit.finetune_config import Finetune
from experiments.results import Claim, Result, Row

# Row -> column -> {"mean", "spread", "runs"}.
Summary = dict[str, dict[str, dict[str, Any]]]


def part(what: Any, config: Any, name: str, **changes: Any) -> Any:
  """The configuration of a part of a replica.

  Args:
    what: the replica, with a `root` and the `data_dir`, `dtype` and `smoke` of
      all its parts.
    config: of the part, as it is elsewhere.
    name: of its workdir in the root.
    **changes: of further fields.
  """
  fields = {"data_dir": what.data_dir, "smoke": what.smoke, **changes}
  fields |= {"dtype": what.dtype, "workdir": str(what.root / name)}
  return dataclasses.replace(config, **fields)


def row_name(labels: int) -> str:
  """Fine-tuning with so many labels, in words; 0 stands for all."""
  return f"fine-tuned, {labels or 'all'} labels"


def judged_on(config: Finetune) -> str:
  """The images that accuracies are of, in words."""
  source = config.test_dataset or config.dataset
  return f"accuracy on {source}:{config.test_split}"


def summary(found: Sequence[Result], columns: Sequence[str]) -> Summary:
  """The means of rows' values over seeds; no spread of a single run."""
  content: Summary = {}
  for row in dict.fromkeys(result.row for result in found):
    runs = [result.values for result in found if result.row == row]
    content[row] = {}
    for column in columns:
      values = [run[column] for run in runs]
      content[row][column] = {
        "mean": statistics.mean(values),
        "spread": statistics.stdev(values) if len(values) > 1 else None,
        "runs": values,
      }
  return content


def write_table(
  path: Path,
  title: str,
  rows: Sequence[Row],
  claims: Sequence[Claim],
  note: str,
  found: Sequence[Result],
) -> None:
  """Writes and prints the table, the means and what became of the claims."""
  text = results.table(title, rows, found) + "\n"
  text += results.averages(title, found)
  text += results.claims(title, claims, found) + note
  path.write_text(text)
  print(text)
