"""The training curve as a file of JSON lines."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class MetricsWriter:
  """Appends one line per logged step: {"step": 100, "loss": 0.5, ...}.

  Numbers have as many digits as needed to read back the same float32, and
  nothing else is written, so two runs that trained alike have equal files.

  Attributes:
    last: the last line; {} if there is none.
  """

  def __init__(self, path: str | Path, step: int) -> None:
    """Opens the file to go on after `step`.

    Later lines are dropped, which a killed run wrote after the checkpoint
    that training restarts from, and so is a last line that a kill cut short.

    Args:
      path: the file; made if it is missing, with its directories.
      step: the step training starts from.

    Raises:
      OSError: it cannot be written, for want of space say.
      ValueError: a line before the last is not a metrics line.
    """
    self._path = path = Path(path)
    self.last: dict[str, Any] = {}
    with self._explained():
      path.parent.mkdir(parents=True, exist_ok=True)
      if path.is_file():
        lines, self.last = _lines_until(path, step)
        kept = path.with_name(path.name + ".tmp")
        kept.write_text("".join(lines))
        os.replace(kept, path)
      # Unbuffered: what a full disk refuses is not tried again at the end.
      self._file = path.open("ab", buffering=0)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a line; it is with the operating system on return.

    Raises:
      OSError: it cannot be written, or not whole, for want of space say.
    """
    self.last = {"step": step, **{k: float(v) for k, v in metrics.items()}}
    line = (json.dumps(self.last) + "\n").encode()
    with self._explained():
      while line:
        line = line[self._file.write(line) :]

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Says which file it is that an error is about."""
    try:
      yield
    except OSError as error:
      raise type(error)(f"cannot write {self._path}: {error}") from error


def _lines_until(path: Path, step: int) -> tuple[list[str], dict[str, Any]]:
  """The lines up to a step, and the last of them."""
  lines = path.read_text().splitlines(keepends=True)
  if lines and not lines[-1].endswith("\n"):
    lines.pop()
  kept: list[str] = []
  last: dict[str, Any] = {}
  for number, line in enumerate(lines, 1):
    try:
      parsed = json.loads(line)
      if parsed["step"] <= step:
        kept.append(line)
        last = parsed
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f"line {number} of {path} is not a metrics line: {line[:40]!r}"
      ) from error
  return kept, last
