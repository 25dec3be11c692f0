"""The order in which training sees the examples of a data set."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxgen.data.optional import optional
from jaxgen.messages import reason

Change = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


def batch_examples(
  num_examples: int, batch_size: int, seed: int, batch: int
) -> np.ndarray:
  """Which examples a batch of `train_batches` is made of.

  Args:
    num_examples: the length of its source.
    batch_size: its batch size, over all hosts.
    seed: its seed.
    batch: the number of the batch, counted from 0.

  Returns:
    Indices into the source, int64 `[B]`, in the batch's order.

  Raises:
    ValueError: the batch's number is negative.
  """
  if batch < 0:
    raise ValueError(f"batch must be at least 0, got {batch}")
  order = shuffled_indices(num_examples, seed)
  first = batch * batch_size
  return np.array([order[first + i] for i in range(batch_size)], np.int64)


def shuffled(examples: Sequence, seed: int, change: Change | None) -> Any:
  """The endless stream of examples, a grain MapDataset."""
  shuffle_seed, change_seed = _seeds(seed)
  stream = optional("grain").MapDataset.source(examples)
  stream = stream.shuffle(shuffle_seed).repeat()
  if change is not None:
    stream = stream.random_map(change, seed=change_seed)
  return stream


def shuffled_indices(num_examples: int, seed: int) -> Any:
  """The indices of the examples in that stream."""
  indices = optional("grain").MapDataset.range(num_examples)
  return indices.shuffle(_seeds(seed)[0]).repeat()


def _seeds(seed: int) -> tuple[int, int]:
  """Those of the order and of the changes."""
  order, change = np.random.SeedSequence(seed).generate_state(2)
  return int(order), int(change)


def about_example(index: int, error: Exception) -> Exception:
  """The error with the example it is about, in one sentence."""
  # A data set of `load` has named it, with its file.
  name = f"example {index}"
  message = str(error) if name in str(error) else f"{name}: {reason(error)}"
  for kind in (TypeError, OSError, ImportError):
    if isinstance(error, kind):
      return kind(message)
  return ValueError(message)
