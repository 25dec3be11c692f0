"""Mean and covariance of features, accumulated batch by batch in float64."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxgen.types import Array


class Gaussian(NamedTuple):
  """The normal distribution that a set of features is taken for.

  Attributes:
    mean: `[D]` float64.
    covariance: `[D, D]` float64.
  """

  mean: np.ndarray
  covariance: np.ndarray


class Moments(NamedTuple):
  """First and second moments of n vectors.

  Attributes:
    n: how many vectors.
    mean: `[D]` float64.
    scatter: sum of (x - mean)(x - mean)^T, `[D, D]` float64.
  """

  n: int
  mean: np.ndarray
  scatter: np.ndarray

  @property
  def gaussian(self) -> Gaussian:
    """Mean and scatter / (n - 1).

    Raises:
      ValueError: fewer than two vectors.
    """
    if self.n < 2:
      raise ValueError(f"a covariance needs at least 2 vectors, got {self.n}")
    return Gaussian(self.mean, self.scatter / (self.n - 1))


def moments_of(features: Array | np.ndarray) -> Moments:
  """Moments of a batch `[n, D]`.

  Raises:
    ValueError: another shape, no vectors, or a value that is not finite.
  """
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or not len(features):
    raise ValueError(f"features have shape [n, D], n > 0; got {features.shape}")
  if not np.isfinite(features).all():
    raise ValueError("features hold NaN or infinity")
  mean = features.mean(0)
  centered = features - mean
  return Moments(len(features), mean, centered.T @ centered)


def merge(parts: Iterable[Moments]) -> Moments:
  """Moments of all vectors together, from those of disjoint parts.

  Chan, Golub & LeVeque 1979, Eq. 2.1: scatter = sum of the scatters plus the
  scatter of the means, which loses nothing when the mean is far from zero.

  Raises:
    ValueError: no parts, or parts of different dimensions.
  """
  total: Moments | None = None
  for part in parts:
    total = part if total is None else _merge_two(total, part)
  if total is None:
    raise ValueError("there are no moments to merge")
  return total


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
  """A Gaussian of a mean `[D]` and a covariance `[D, D]`, checked.

  Raises:
    ValueError: shapes that do not fit, a value that is not finite, or a
      covariance that is not symmetric.
  """
  mean = np.asarray(mean, np.float64)
  covariance = np.asarray(covariance, np.float64)
  if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
    raise ValueError(
      f"wanted a mean [D] and a covariance [D, D], got {mean.shape} and "
      f"{covariance.shape}"
    )
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise ValueError("mean or covariance hold NaN or infinity")
  scale = np.abs(covariance).max(initial=0)
  if not np.allclose(covariance, covariance.T, rtol=0, atol=1e-6 * scale):
    raise ValueError("the covariance is not symmetric")
  return Gaussian(mean, covariance)


def _merge_two(a: Moments, b: Moments) -> Moments:
  if a.mean.shape != b.mean.shape:
    raise ValueError(
      f"moments of {len(a.mean)} and of {len(b.mean)} dimensions do not merge"
    )
  n = a.n + b.n
  gap = b.mean - a.mean
  mean = a.mean + gap * (b.n / n)
  between = np.outer(gap, gap) * (a.n * b.n / n)
  return Moments(n, mean, a.scatter + b.scatter + between)
