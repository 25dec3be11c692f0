"""Distances between sets of features: Frechet (FID, sFID) and kernel (KID)."""

import numpy as np

from jaxgen.metrics.moments import Gaussian


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
  """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^{1/2}).

  Heusel et al. 2017 (FID), Eq. 6; the squared 2-Wasserstein distance of two
  Gaussians (Dowson & Landau 1982). With C = R R^T, the trace of (C_a C_b)^{1/2}
  is the sum of the singular values of R_a^T R_b. That is real and accurate for
  singular covariances, such as those of fewer images than dimensions, where a
  square root of the product is neither.

  Args:
    a: mean and covariance of one set's features.
    b: of the other.

  Returns:
    The distance, at least 0.

  Raises:
    ValueError: features of different dimensions.
  """
  if a.mean.shape != b.mean.shape:
    raise ValueError(
      f"features of {len(a.mean)} and of {len(b.mean)} dimensions have no "
      "distance"
    )
  product = _root(a.covariance).T @ _root(b.covariance)
  overlap = np.linalg.svd(product, compute_uv=False).sum()
  spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
  return float(max(np.sum((a.mean - b.mean) ** 2) + spread, 0.0))


def kernel_distance(
  x: np.ndarray,
  y: np.ndarray,
  subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 2020,
) -> tuple[float, float]:
  """KID: the squared MMD with the kernel (x.y / D + 1)^3, unbiased.

  Binkowski et al. 2018, section 4 and Eq. 4:
  mean over i != j of k(x_i, x_j) + k(y_i, y_j), minus 2 mean k(x_i, y_j), over
  random subsets. It can be negative. Subsets are drawn as torch-fidelity draws
  them.

  Args:
    x: features `[n, D]`.
    y: features `[m, D]`.
    subsets: how many.
    subset_size: vectors of each set in one; at most n and m.
    seed: of the subsets.

  Returns:
    (mean, standard deviation) over the subsets.

  Raises:
    ValueError: other shapes, or subsets larger than a set.
  """
  x, y = (_check_features(z) for z in (x, y))
  if x.shape[1] != y.shape[1]:
    raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} dimensions")
  if not 2 <= subset_size <= min(len(x), len(y)):
    raise ValueError(
      f"subset_size must lie between 2 and the {min(len(x), len(y))} images of "
      f"the smaller set, got {subset_size}"
    )
  random = np.random.RandomState(seed)
  values = []
  for _ in range(subsets):
    some_x = x[random.choice(len(x), subset_size, replace=False)]
    some_y = y[random.choice(len(y), subset_size, replace=False)]
    values.append(_mmd2(some_x, some_y))
  return float(np.mean(values)), float(np.std(values))


def _mmd2(x: np.ndarray, y: np.ndarray) -> float:
  n = len(x)
  kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3
  within = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y)))
  return within / (n * (n - 1)) - 2 * kernel(x, y).mean()


def _root(covariance: np.ndarray) -> np.ndarray:
  """R with R R^T = covariance; directions of rounding error are dropped."""
  values, vectors = np.linalg.eigh(covariance)
  noise = values[-1] * len(values) * np.finfo(values.dtype).eps
  kept = values > noise
  return vectors[:, kept] * np.sqrt(values[kept])


def _check_features(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  if x.ndim != 2:
    raise ValueError(f"features have shape [n, D], got {x.shape}")
  return x
