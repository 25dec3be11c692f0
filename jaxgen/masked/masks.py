"""Masks of patches, drawn on the host."""

import math

import numpy as np

_TRIES = 10  # to place one block


def blockwise_mask(
  rng: np.random.Generator,
  grid: tuple[int, int] = (14, 14),
  num_masked: int = 75,
  *,
  exact: bool = False,
  min_block: int = 16,
  min_aspect: float = 0.3,
) -> np.ndarray:
  """Blocks of patches, one after another (Bao et al. 2022, Algorithm 1).

  A block's area is uniform between `min_block` and what is left to mask, its
  height over its width log-uniform in [min_aspect, 1 / min_aspect]. A block
  must be smaller than the grid both ways, and add one patch at least but no
  more than are left. Ten blocks in vain end the mask, so it may hold fewer
  patches than asked for: in the paper's grid 74.4 in the mean, 75 in two of
  three masks.

  Args:
    rng: where the draws come from.
    grid: height and width in patches.
    num_masked: patches to mask; the paper's 75 of 196 are "40%".
    exact: what is missing is made up of single patches, as in BEiT v2.
    min_block: smallest area of a block.
    min_aspect: smallest ratio of a block's sides.

  Returns:
    bool `[height, width]`, True where a patch is masked.

  Raises:
    ValueError: num_masked, min_block or min_aspect is out of range.
  """
  _check_num_masked(num_masked, grid)
  if min_block < 1 or not 0 < min_aspect <= 1:
    raise ValueError(
      "min_block must be at least 1 and min_aspect in (0, 1], got "
      f"{min_block} and {min_aspect}"
    )
  mask = np.zeros(grid, bool)
  while (left := num_masked - int(mask.sum())) > 0:
    if not _add_block(rng, mask, left, min_block, min_aspect):
      break
  if exact and left > 0:
    free = np.flatnonzero(~mask)
    mask.flat[rng.choice(free, left, replace=False)] = True
  return mask


def random_mask(
  rng: np.random.Generator,
  grid: tuple[int, int] = (14, 14),
  num_masked: int = 75,
) -> np.ndarray:
  """Single patches, all sets of them alike (Bao et al. 2022, Table 4).

  Args:
    rng: where the draw comes from.
    grid: height and width in patches.
    num_masked: patches to mask.

  Returns:
    bool `[height, width]`, True where a patch is masked.

  Raises:
    ValueError: num_masked is out of range.
  """
  _check_num_masked(num_masked, grid)
  mask = np.zeros(grid, bool)
  mask.flat[rng.choice(mask.size, num_masked, replace=False)] = True
  return mask


def _check_num_masked(num_masked: int, grid: tuple[int, int]) -> None:
  height, width = grid
  if not 0 <= num_masked <= height * width:
    raise ValueError(
      f"num_masked must lie in [0, {height * width}], got {num_masked}"
    )


def _add_block(
  rng: np.random.Generator,
  mask: np.ndarray,
  left: int,
  min_block: int,
  min_aspect: float,
) -> bool:
  """Masks a block in place; False if none of the tries fits."""
  for _ in range(_TRIES):
    # The bounds change places when fewer are left than a block has.
    area = min_block + (left - min_block) * rng.random()
    limit = math.log(min_aspect)
    aspect = math.exp(rng.uniform(limit, -limit))
    h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if h >= mask.shape[0] or w >= mask.shape[1]:
      continue
    top = rng.integers(0, mask.shape[0] - h, endpoint=True)
    start = rng.integers(0, mask.shape[1] - w, endpoint=True)
    block = mask[top : top + h, start : start + w]
    if 0 < block.size - block.sum() <= left:
      block[...] = True
      return True
  return False
