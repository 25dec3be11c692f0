"""Batches by worker processes, whose position does not depend on how many."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgen.data.optional import optional
from jaxgen.messages import shown


class WorkerBatches:
  """An endless iterator of batches, prepared ahead by processes of their own.

  Its state is that of one without workers, the number of the next batch. That
  of grain's own has a position for each worker: for another number of them it
  is refused, or means other batches.
  """

  def __init__(self, start: Callable[[int], Any], num_workers: int) -> None:
    """Starts nothing yet.

    Args:
      start: n -> a grain dataset of the batches n, n + 1, ...
      num_workers: how many processes.
    """
    self._start, self._num_workers = start, num_workers
    self._iterator: Any = None
    self._next = 0

  def __iter__(self) -> "WorkerBatches":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._iterator is None:
      # grain reads absl flags, which only absl's own main parses.
      optional("absl.flags").FLAGS.mark_as_parsed()
      options = optional("grain").MultiprocessingOptions(
        self._num_workers, per_worker_buffer_size=2
      )
      self._iterator = iter(self._start(self._next).mp_prefetch(options))
    batch = next(self._iterator)
    self._next += 1
    return batch

  def get_state(self) -> dict[str, int]:
    """The position."""
    return {"next_index": self._next}

  def set_state(self, state: Any) -> None:
    """Continues from a position, that of an iterator without workers, too.

    Raises:
      ValueError: it is none.
    """
    position = state.get("next_index") if isinstance(state, dict) else None
    if not isinstance(position, int) or position < 0:
      raise ValueError(f"{shown(state)} is no position in the data")
    self.close()
    self._next = position

  def close(self) -> None:
    """Ends the processes."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None
