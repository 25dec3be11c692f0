"""One line of progress: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections import deque
from typing import Any, TextIO


class Progress:
  """Shows step, loss, steps per second and the time left.

  On a terminal, a live bar if `rich` is installed; otherwise a line at the
  first and the last step and every `seconds` between.
  """

  def __init__(
    self, end: int, seconds: float = 30.0, out: TextIO | None = None
  ) -> None:
    """Starts showing.

    Args:
      end: the last step.
      seconds: time between plain lines.
      out: where to write; stdout by default.
    """
    self._end = end
    self._seconds = seconds
    self._out = sys.stdout if out is None else out
    self._seen: deque[tuple[int, float]] = deque(maxlen=256)
    self._due = 0.0
    self._bar = _rich_bar(end, self._out) if self._out.isatty() else None

  def update(self, step: int, loss: float) -> None:
    """Shows that `step` is done."""
    now = time.monotonic()
    self._seen.append((step, now))
    if self._bar is not None:
      self._bar.update(
        self._bar.task_ids[0], completed=step, text=self._line(step, loss)
      )
    elif now >= self._due or step == self._end:
      print(self._line(step, loss), file=self._out, flush=True)
      self._due = now + self._seconds

  def close(self) -> None:
    """Leaves the bar as it stands."""
    if self._bar is not None:
      self._bar.stop()

  def _line(self, step: int, loss: float) -> str:
    line = f"step {step}/{self._end}  loss {loss:.5g}"
    first_step, first_time = self._seen[0]
    last_step, last_time = self._seen[-1]
    if last_time > first_time and last_step > first_step:
      rate = (last_step - first_step) / (last_time - first_time)
      line += f"  {rate:.3g} steps/s  {_clock((self._end - step) / rate)} left"
    return line


def _clock(seconds: float) -> str:
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  return f"{hours}:{minute:02d}:{second:02d}"


def _rich_bar(end: int, out: TextIO) -> Any:
  """A started bar with one task, or None without rich."""
  try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
  except ImportError:
    return None
  columns = BarColumn(), TextColumn("{task.fields[text]}")
  bar = Progress(*columns, console=Console(file=out))
  bar.add_task("", total=end, text="starting")
  bar.start()
  return bar
