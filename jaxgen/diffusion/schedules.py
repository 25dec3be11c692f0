"""Noise schedules, built on the host in float64.

Betas are indexed from 0 as in the papers' code: `betas[t - 1]` is the paper's
beta_t, the variance added between t - 1 and t.
"""

import numpy as np


def linear_betas(
  T: int = 1000, start: float = 1e-4, end: float = 0.02
) -> np.ndarray:
  """beta_t linear in t, DDPM (Ho et al. 2020, section 4).

  Improved DDPM keeps the same curve for another T by scaling both ends by
  1000 / T: `linear_betas(4000, 2.5e-5, 0.005)`.

  Returns:
    float64 `[T]`.
  """
  return _checked_betas(np.linspace(start, end, T, dtype=np.float64))


def scaled_linear_betas(
  T: int = 1000, start: float = 0.00085, end: float = 0.012
) -> np.ndarray:
  """sqrt(beta_t) linear in t: latent diffusion, Rombach et al. 2022.

  The defaults are Stable Diffusion 1's.

  Returns:
    float64 `[T]`.
  """
  roots = np.linspace(start**0.5, end**0.5, T, dtype=np.float64)
  return _checked_betas(roots**2)


def cosine_betas(
  T: int, s: float = 0.008, max_beta: float = 0.999
) -> np.ndarray:
  """Cosine schedule, improved DDPM (Nichol & Dhariwal 2021, Eq. 17).

  abar_t = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) * pi / 2),
  beta_t = min(1 - abar_t / abar_{t-1}, max_beta).

  Returns:
    float64 `[T]`.
  """
  u = np.arange(T + 1, dtype=np.float64) / T
  f = np.cos((u + s) / (1 + s) * np.pi / 2) ** 2
  return _checked_betas(np.minimum(1 - f[1:] / f[:-1], max_beta))


def geometric_sigmas(n: int, sigma_max: float, sigma_min: float) -> np.ndarray:
  """sigma_1 > ... > sigma_n in geometric progression, NCSN (Song & Ermon 2019).

  Descending, as NCSN counts its levels; reverse it for
  `DiscreteProcess.from_sigmas`.

  Returns:
    float64 `[n]`.
  """
  if n < 1 or not sigma_max > sigma_min > 0:
    raise ValueError(
      "geometric_sigmas needs n >= 1 and sigma_max > sigma_min > 0, got "
      f"n={n}, sigma_max={sigma_max}, sigma_min={sigma_min}"
    )
  return np.geomspace(sigma_max, sigma_min, n, dtype=np.float64)


def _checked_betas(betas: np.ndarray) -> np.ndarray:
  """Betas as they came, or a ValueError for one outside (0, 1)."""
  if betas.ndim != 1 or betas.size == 0:
    raise ValueError(f"betas must have shape [T], T >= 1, got {betas.shape}")
  bad = ~((betas > 0) & (betas < 1))
  if bad.any():
    i = int(bad.argmax())
    raise ValueError(
      f"every beta must lie in (0, 1), got beta_{i + 1} = {betas[i]:g}"
    )
  return betas
