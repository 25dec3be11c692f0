"""NCSNv2's choice of noise levels and step size (Song & Ermon 2020).

Of the paper's five techniques: 1, the largest level, `max_pairwise_distance`;
2, the others, `level_ratio` and `num_levels`; 4, the step size,
`langevin_step_size`. 3, an unconditional network divided by sigma, is
`NCSN(conditional=False)`; 5, averaged parameters, is `training.constant_ema`.
"""

import math

import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array

COVERAGE = 0.5  # the paper's C


def max_pairwise_distance(x: Array, chunk: int = 256) -> float:
  """The largest distance between two examples: sigma_1 (Technique 1).

  Args:
    x: data `[N, ...]`.
    chunk: rows of the table of distances at a time.
  """
  flat = jnp.asarray(x, jnp.float32).reshape(len(x), -1)
  squares = (flat**2).sum(1)
  largest = 0.0
  for i in range(0, len(flat), chunk):
    rows, norms = flat[i : i + chunk], squares[i : i + chunk]
    table = norms[:, None] + squares[None] - 2 * rows @ flat.T
    largest = max(largest, float(table.max()))
  return math.sqrt(largest)


def level_ratio(dims: int, coverage: float = COVERAGE) -> float:
  """gamma = sigma_{i-1} / sigma_i that lets neighbouring levels overlap.

  The root of Phi(sqrt(2 D) (gamma - 1) + 3 gamma) -
  Phi(sqrt(2 D) (gamma - 1) - 3 gamma) = C (Technique 2), Phi the normal
  distribution function: the share of level i's samples among which level
  i - 1 has trained the score. CIFAR-10's D = 3072 gives 1.0398; the ratio of
  its published 232 levels is 1.0376.

  Args:
    dims: D, the dimensions of an example.
    coverage: C in (0, 1).
  """
  if dims < 1 or not 0 < coverage < 1:
    raise ValueError(
      "level_ratio needs dims >= 1 and coverage in (0, 1), got "
      f"dims={dims}, coverage={coverage}"
    )
  normal = lambda z: (1 + math.erf(z / math.sqrt(2))) / 2

  def overlap(gamma):
    shift = math.sqrt(2 * dims) * (gamma - 1)
    return normal(shift + 3 * gamma) - normal(shift - 3 * gamma)

  low, high = 1.0, 2.0
  while overlap(high) > coverage and high < 1e6:
    high *= 2
  for _ in range(100):
    middle = (low + high) / 2
    low, high = (middle, high) if overlap(middle) > coverage else (low, middle)
  return (low + high) / 2


def num_levels(sigma_max: float, sigma_min: float, ratio: float) -> int:
  """L, so that L geometric levels have about this ratio (Technique 2)."""
  if not sigma_max > sigma_min > 0 or not ratio > 1:
    raise ValueError(
      "num_levels needs sigma_max > sigma_min > 0 and ratio > 1, got "
      f"{sigma_max}, {sigma_min}, {ratio}"
    )
  return round(math.log(sigma_max / sigma_min) / math.log(ratio)) + 1


def langevin_variance_ratio(
  eps: float, sigma_min: float, num_steps: int, ratio: float
) -> float:
  """Variance over sigma_i^2 after a level's Langevin steps (Eq. 4 there).

  (1 - eps / sigma_L^2)^(2 T) (gamma^2 - k) + k,
  k = 2 eps / (sigma_L^2 - sigma_L^2 (1 - eps / sigma_L^2)^2): at every level,
  for data at one point, started from the level before. 1 is right.

  Args:
    eps: step size at the smallest level, as in the released code.
    sigma_min: sigma_L.
    num_steps: T, at each level.
    ratio: gamma.
  """
  kept = 1 - eps / sigma_min**2
  k = 2 * eps / (sigma_min**2 * (1 - kept**2))
  return kept ** (2 * num_steps) * (ratio**2 - k) + k


def langevin_step_size(
  sigma_min: float, num_steps: int, ratio: float, points: int = 10_000
) -> float:
  """eps whose `langevin_variance_ratio` is nearest 1 (Technique 4).

  The search is over a geometric grid up to sigma_min^2, where the ratio still
  falls to its stationary value. The published step sizes are rounded, and rest
  on rounded ratios.
  """
  grid = np.geomspace(1e-4, 0.999, points) * sigma_min**2
  gaps = [
    abs(langevin_variance_ratio(eps, sigma_min, num_steps, ratio) - 1)
    for eps in grid
  ]
  return float(grid[int(np.argmin(gaps))])
