"""Improved precision and recall: do samples lie on the data's manifold?"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array


def precision_recall(
  real: np.ndarray, fake: np.ndarray, k: int = 3, block: int = 1000
) -> tuple[float, float]:
  """Kynkaanniemi et al. 2019, Eq. 1 and 2.

  A set's manifold is the union of balls around its vectors, each reaching to
  the vector's k-th nearest neighbour in the set. Precision is the share of
  fakes on the manifold of the real, recall the share of reals on the manifold
  of the fake.

  Args:
    real: features `[n, D]`.
    fake: features `[m, D]`.
    k: neighbours; 3 in the paper and in ADM's evaluation.
    block: vectors whose distances are held at a time, which bounds memory.

  Returns:
    (precision, recall).

  Raises:
    ValueError: other shapes, or a set of at most k vectors.
  """
  real, fake = (np.asarray(x, np.float32) for x in (real, fake))
  if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
    raise ValueError(
      f"wanted features [n, D] and [m, D], got {real.shape} and {fake.shape}"
    )
  if k < 1 or min(len(real), len(fake)) <= k:
    raise ValueError(
      f"{k} neighbours need more than {k} vectors in each set, got "
      f"{len(real)} and {len(fake)}"
    )
  # Distances do not change, and round less, without the common mean.
  center = real.mean(0)
  real, fake = real - center, fake - center
  precision = _share_covered(fake, real, _radii(real, k, block), block)
  recall = _share_covered(real, fake, _radii(fake, k, block), block)
  return precision, recall


def _radii(x: np.ndarray, k: int, block: int) -> np.ndarray:
  """Squared distance of each vector to its k-th neighbour, `[n]`."""

  @jax.jit
  def kth(rows, index):
    squares = _squared_distances(rows, x)
    itself = jnp.arange(len(x))[None] == index[:, None]
    squares = jnp.where(itself, jnp.inf, squares)
    return -jax.lax.top_k(-squares, k)[0][:, -1]

  index = np.arange(len(x))
  parts = [
    kth(x[start : start + block], index[start : start + block])
    for start in range(0, len(x), block)
  ]
  return np.concatenate(parts)


def _share_covered(
  x: np.ndarray, centers: np.ndarray, radii: np.ndarray, block: int
) -> float:
  """The share of x within the radius of at least one center."""

  @jax.jit
  def covered(rows):
    return (_squared_distances(rows, centers) <= radii[None]).any(1)

  parts = [
    covered(x[start : start + block]) for start in range(0, len(x), block)
  ]
  return float(np.concatenate(parts).mean())


def _squared_distances(x: Array | np.ndarray, y: Array | np.ndarray) -> Array:
  """|x_i - y_j|^2, `[n, m]`."""
  product = jnp.matmul(x, y.T, precision="highest")
  squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * product
  return jnp.maximum(squares, 0)
