"""Likelihoods in bits per dimension: the variational bound of 8-bit images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.denoisers import Denoiser
from jaxgen.diffusion.gaussian import posterior, q_sample
from jaxgen.diffusion.predictions import Prediction
from jaxgen.diffusion.processes import DiscreteProcess, Process, marginal
from jaxgen.diffusion.reverse import FIXED_SMALL, p_mean_variance
from jaxgen.diffusion.times import descending_times
from jaxgen.types import Array, Key

_BITS = 1 / np.log(2.0)


class VLB(NamedTuple):
  """The variational bound and its parts, in bits per dimension.

  Attributes:
    total: prior plus the sum of the terms, `[B]`; bounds -log2 p(x_0) / D.
    prior: L_T = KL(q(x_T | x_0) | N(0, I)), `[B]`.
    terms: L_{t-1} of each step, `[B, n]`, the decoder's (t = 1) first.
    x_0_mse: mean squared error of the estimate of x_0, `[B, n]`.
    eps_mse: mean squared error of the estimate of eps, `[B, n]`.
  """

  total: Array
  prior: Array
  terms: Array
  x_0_mse: Array
  eps_mse: Array


def vlb_bits_per_dim(
  process: DiscreteProcess,
  denoiser: Denoiser,
  key: Key,
  x_0: Array,
  variance: float = FIXED_SMALL,
  times: np.ndarray | None = None,
  chunk: int = 1,
) -> VLB:
  """-log2 p(x_0) / D <= L_T + sum_t L_{t-1} (DDPM Eq. 5), one draw per step.

  Args:
    process: a discrete process whose prior is N(0, I).
    denoiser: the model; the papers clip its x_0 here.
    key: draws the noise.
    x_0: images k / 127.5 - 1, k in {0, ..., 255}, `[B, ...]`.
    variance: as in `p_mean_variance`.
    times: a descending grid that ends at 0; all of T, ..., 0 when None.
    chunk: terms that are computed at a time, as one batch. It bounds the
      memory, and changes no number.

  Returns:
    A `VLB`.
  """
  grid = descending_times(process.T, process.T) if times is None else times
  grid = np.asarray(grid, np.int32)
  if grid[-1] != 0 or (np.diff(grid) >= 0).any():
    raise ValueError(f"times must descend to 0, got {grid[0]}, ..., {grid[-1]}")
  floor = _least_variance(process, grid)

  def term(step):
    index, t, s = step
    step_key = jax.random.fold_in(key, index)
    x_t, eps = q_sample(process, step_key, x_0, t)
    prediction = denoiser(x_t, t)
    bits = vlb_term(process, prediction, x_0, x_t, t, s, variance, floor)
    errors = (prediction.x_0 - x_0, prediction.eps - eps)
    return bits, *(_mean_flat(e**2) for e in errors)

  # From t = 1 up, so that the decoder's term comes first.
  n = len(grid) - 1
  steps = (jnp.arange(n), grid[-2::-1], grid[:0:-1])
  steps = jax.tree.map(jnp.asarray, steps)
  parts = jax.lax.map(term, steps, batch_size=chunk if chunk > 1 else None)
  terms, x_0_mse, eps_mse = (part.T for part in parts)
  prior = prior_bits_per_dim(process, x_0)
  return VLB(prior + terms.sum(1), prior, terms, x_0_mse, eps_mse)


def vlb_term(
  process: Process,
  prediction: Prediction,
  x_0: Array,
  x_t: Array,
  t: Array,
  s: Array,
  variance: float = FIXED_SMALL,
  floor: Array | float | None = None,
) -> Array:
  """L_{t-1} of each example in bits per dimension, `[B]` (DDPM Eq. 5).

  KL(q(x_s | x_t, x_0) | p(x_s | x_t)), or -log2 p(x_0 | x_t) of the discretised
  decoder where sigma_s = 0.
  """
  if floor is None:
    floor = _least_variance(process, np.array([2, 1, 0], np.int32))
  mean, log_variance = p_mean_variance(
    process, prediction, x_t, t, s, variance, floor
  )
  true_mean, true_variance = posterior(process, x_t, x_0, t, s)
  kl = gaussian_kl(
    true_mean, jnp.log(jnp.maximum(true_variance, floor)), mean, log_variance
  )
  decoder = -discretized_gaussian_log_likelihood(x_0, mean, 0.5 * log_variance)
  _, sigma_s = marginal(process, s, x_0)
  return _mean_flat(jnp.where(sigma_s > 0, kl, decoder)) * _BITS


def prior_bits_per_dim(process: Process, x_0: Array) -> Array:
  """L_T = KL(q(x_T | x_0) | N(0, I)) in bits per dimension, `[B]`."""
  alpha, sigma = marginal(process, jnp.asarray(process.T), x_0)
  kl = gaussian_kl(alpha * x_0, 2 * jnp.log(sigma), 0.0, 0.0)
  return _mean_flat(kl) * _BITS


def gaussian_kl(
  mean_1: Array | float,
  log_variance_1: Array | float,
  mean_2: Array | float,
  log_variance_2: Array | float,
) -> Array:
  """KL(N(mean_1, variance_1) | N(mean_2, variance_2)) elementwise, in nats."""
  gap = log_variance_1 - log_variance_2
  distance = (mean_1 - mean_2) ** 2 * jnp.exp(-jnp.asarray(log_variance_2))
  return 0.5 * (jnp.expm1(gap) - gap + distance)


def discretized_gaussian_log_likelihood(
  x: Array, mean: Array, log_scale: Array
) -> Array:
  """log of N(mean, scale^2)'s mass in the 8-bit bin around x (DDPM Eq. 13).

  Bins have half-width 1/255; the outermost reach to infinity. The normal CDF
  is the tanh approximation of the published code,
  Phi(z) = (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2.

  Args:
    x: images in [-1, 1].
    mean: of x's shape.
    log_scale: log of the standard deviation, broadcasts to x.

  Returns:
    Nats, of x's shape.
  """
  inverse = jnp.exp(-log_scale)
  upper = _normal_cdf((x - mean + 1 / 255) * inverse)
  lower = _normal_cdf((x - mean - 1 / 255) * inverse)
  mass = jnp.where(
    x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower)
  )
  return jnp.log(jnp.maximum(mass, 1e-12))


def _normal_cdf(z: Array) -> Array:
  return 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def _least_variance(process: Process, times: np.ndarray) -> Array | float:
  """The posterior variance of the last step but one, beta-tilde_2."""
  if len(times) < 3:
    return 1e-20
  zero = jnp.zeros((1,))
  _, variance = posterior(process, zero, zero, times[-3], times[-2])
  return variance.reshape(())


def _mean_flat(x: Array) -> Array:
  """The mean over all axes but the first."""
  return x.mean(axis=tuple(range(1, x.ndim)))
