"""The Inception score, from sums over the images of each split."""

from typing import NamedTuple

import numpy as np

from jaxgen.types import Array

SPLITS = 10


class ClassSums(NamedTuple):
  """Sums over the images of each split.

  Attributes:
    n: images, `[S]`.
    p: of p(y | x), `[S, K]` float64.
    p_log_p: of sum_y p(y | x) log p(y | x), `[S]` float64.
  """

  n: np.ndarray
  p: np.ndarray
  p_log_p: np.ndarray


def no_classes(classes: int, splits: int = SPLITS) -> ClassSums:
  """Sums over no images, to add to."""
  return ClassSums(
    np.zeros(splits, np.int64), np.zeros((splits, classes)), np.zeros(splits)
  )


def add_logits(
  sums: ClassSums, logits: Array | np.ndarray, first: int, total: int
) -> ClassSums:
  """The sums with images number `first`, `first` + 1, ... added.

  Args:
    sums: so far.
    logits: of a batch, `[n, K]`.
    first: index of the batch's first image among all.
    total: images in all; split i holds those from i total / S on.

  Raises:
    ValueError: another shape, or images beyond `total`.
  """
  logits = np.asarray(logits, np.float64)
  splits, classes = sums.p.shape
  if logits.ndim != 2 or logits.shape[1] != classes:
    raise ValueError(f"wanted logits [n, {classes}], got {logits.shape}")
  if total < splits or first < 0 or first + len(logits) > total:
    raise ValueError(
      f"images {first} to {first + len(logits)} of {total} in {splits} splits"
    )
  log_p = logits - logits.max(1, keepdims=True)
  log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
  p = np.exp(log_p)
  starts = np.arange(splits) * total // splits
  index = np.arange(first, first + len(logits))
  member = (np.searchsorted(starts, index, "right") - 1)[None] == np.arange(
    splits
  )[:, None]
  return ClassSums(
    sums.n + member.sum(1),
    sums.p + member @ p,
    sums.p_log_p + member @ (p * log_p).sum(1),
  )


def inception_score(sums: ClassSums) -> tuple[float, float]:
  """exp E_x KL(p(y | x) | p(y)) of each split (Salimans et al. 2016, sec. 4).

  The mean KL is E_x sum_y p(y | x) log p(y | x) minus sum_y p(y) log p(y), with
  p(y) the split's own mean.

  Returns:
    (mean, standard deviation) over the splits.

  Raises:
    ValueError: a split without images.
  """
  if not sums.n.all():
    raise ValueError(f"a split has no images: {sums.n.tolist()}")
  marginal = sums.p / sums.n[:, None]
  entropy = -np.sum(marginal * np.log(np.maximum(marginal, 1e-300)), axis=1)
  scores = np.exp(sums.p_log_p / sums.n + entropy)
  return float(scores.mean()), float(scores.std())
