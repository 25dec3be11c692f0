"""The training curve as a file of JSON lines."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsWriter:
  """Appends one line per logged step: {"step": 100, "loss": 0.5, ...}.

  Numbers have as many digits as needed to read back the same float32, and
  nothing else is written, so two runs that trained alike have equal files.
  """

  def __init__(self, path: str | Path, step: int) -> None:
    """Opens the file to go on after `step`.

    Later lines are dropped, which a killed run wrote after the checkpoint
    that training restarts from, and so is a last line that a kill cut short.

    Args:
      path: the file; made if it is missing, with its directories.
      step: the step training starts from.

    Raises:
      ValueError: a line before the last is not a metrics line.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
      kept = path.with_name(path.name + ".tmp")
      kept.write_text("".join(_lines_until(path, step)))
      os.replace(kept, path)
    self._file = path.open("a")

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a line; it is with the operating system on return."""
    line = {"step": step, **{k: float(v) for k, v in metrics.items()}}
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def _lines_until(path: Path, step: int) -> list[str]:
  lines = path.read_text().splitlines(keepends=True)
  if lines and not lines[-1].endswith("\n"):
    lines.pop()
  kept = []
  for number, line in enumerate(lines, 1):
    try:
      if json.loads(line)["step"] <= step:
        kept.append(line)
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f"line {number} of {path} is not a metrics line: {line[:40]!r}"
      ) from error
  return kept
