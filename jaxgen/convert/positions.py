"""Positions of a vision transformer at another image size."""

import math

import numpy as np
from scipy.interpolate import RectBivariateSpline

Grid = tuple[int, int]
_SPECIAL = 3  # rows of a bias table that belong to the class token


def side_of(positions: np.ndarray) -> int:
  """Patches along a side of the square image that positions are of.

  Args:
    positions: `[..., N + 1, C]`, the class token's the first.

  Raises:
    ValueError: N is no square.
  """
  n = positions.shape[-2] - 1 if positions.ndim > 1 else -1
  side = math.isqrt(max(n, 0))
  if n < 1 or side * side != n:
    raise ValueError(
      "The checkpoint's positions must be of a square of patches and a class "
      f"token, got shape {positions.shape}."
    )
  return side


def resize_bias_table(table: np.ndarray, old: int, new: int) -> np.ndarray:
  """A relative position bias table for another square grid.

  As BEiT's released code: a cubic spline through the old biases, which are
  placed at 0, +-1, +-(1 + q), +-(1 + q + q^2), ..., so that distances near 0
  keep their place and the farthest old one falls on the farthest new one.

  Args:
    table: `[(2 old - 1)^2 + 3, heads]`; the last three rows are kept.
    old: height and width of the grid it was made for, in patches.
    new: those of the grid wanted.

  Returns:
    `[(2 new - 1)^2 + 3, heads]`.

  Raises:
    ValueError: the table is not one of the old grid.
  """
  size, wanted = 2 * old - 1, 2 * new - 1
  if table.ndim != 2 or table.shape[0] != size**2 + _SPECIAL:
    raise ValueError(
      f"a bias table of {old} x {old} patches has {size**2 + _SPECIAL} rows, "
      f"got shape {table.shape}"
    )
  if old == new:
    return table
  places = _geometric_places(size, wanted)
  ends = wanted // 2
  targets = np.arange(-ends, ends + 1)
  heads = []
  for head in table[:-_SPECIAL].T.reshape(-1, size, size):
    spline = RectBivariateSpline(places, places, head, kx=3, ky=3, s=0)
    heads.append(spline(targets, targets).ravel())
  resized = np.stack(heads, axis=1).astype(table.dtype)
  return np.concatenate([resized, table[-_SPECIAL:]])


def _geometric_places(size: int, wanted: int) -> np.ndarray:
  """The places of `size` old distances; q is found by bisection."""
  low, high = 1.01, 1.5
  while high - low > 1e-6:
    q = (low + high) / 2
    if (q ** (size // 2) - 1) / (q - 1) > wanted // 2:
      high = q
    else:
      low = q
  steps = q ** np.arange(size // 2)
  right = np.cumsum(steps)
  return np.concatenate([-right[::-1], [0.0], right])


def resize_positions(positions: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
  """Absolute positions `[1, 1 + N, C]` of another grid, bicubic.

  The interpolation is PyTorch's (a = -0.75, corners not aligned); the class
  token's vector is kept.

  Raises:
    ValueError: the positions are not those of the old grid.
  """
  if positions.shape[:2] != (1, old[0] * old[1] + 1):
    raise ValueError(
      f"positions of {old[0]} x {old[1]} patches have shape "
      f"(1, {old[0] * old[1] + 1}, C), got {positions.shape}"
    )
  if old == new:
    return positions
  patches = positions[0, 1:].reshape(*old, -1)
  rows, columns = (_bicubic(a, b) for a, b in zip(old, new, strict=True))
  patches = np.einsum("yi,xj,ijc->yxc", rows, columns, patches)
  patches = patches.reshape(1, new[0] * new[1], -1).astype(positions.dtype)
  return np.concatenate([positions[:, :1], patches], axis=1)


def _bicubic(old: int, new: int, a: float = -0.75) -> np.ndarray:
  """Keys's (1981) cubic weights `[new, old]`; beyond the ends lies the end."""
  places = (np.arange(new) + 0.5) * old / new - 0.5
  first = np.floor(places).astype(int) - 1
  matrix = np.zeros((new, old))
  for tap in range(4):
    at = first + tap
    d = np.abs(places - at)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    weight = np.where(d <= 1, near, far)
    np.add.at(matrix, (np.arange(new), np.clip(at, 0, old - 1)), weight)
  return matrix
