"""What a network's output says about x_0 and the noise at x_t.

Every parameterisation is a linear map of the pair (x_0, eps) in
x_t = alpha_t x_0 + sigma_t eps, so one estimate gives all others:

  eps       (x_t - alpha x_0) / sigma
  score     -eps / sigma                       grad log q(x_t)
  velocity  alpha eps - sigma x_0              progressive distillation's v
  mean      the posterior mean of x_{t-1}      DDPM's mu-tilde
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxgen.diffusion.gaussian import posterior
from jaxgen.diffusion.processes import Process, marginal
from jaxgen.types import Array


class Prediction(NamedTuple):
  """Mutually consistent estimates at x_t.

  Attributes:
    x_0: the estimate of x_0, `[B, ...]`.
    eps: the estimate of the noise, x_t = alpha_t x_0 + sigma_t eps.
    v: a learned variance as improved DDPM's interpolation (its Eq. 15): 0 is
      the posterior variance, 1 is b of `transition`; or None.
    log_variance: a learned variance of x_{t-1} itself (DDPM Table 2, "learned
      diagonal"), or None.
  """

  x_0: Array
  eps: Array
  v: Array | None = None
  log_variance: Array | None = None


def from_eps(process: Process, x_t: Array, t: Array, eps: Array) -> Prediction:
  """x_0 = (x_t - sigma_t eps) / alpha_t (DDPM section 3.2)."""
  alpha, sigma = _marginal(process, t, x_t, eps)
  return Prediction((x_t - sigma * eps) / alpha, eps)


def from_x_0(process: Process, x_t: Array, t: Array, x_0: Array) -> Prediction:
  """eps = (x_t - alpha_t x_0) / sigma_t."""
  alpha, sigma = _marginal(process, t, x_t, x_0)
  return Prediction(x_0, (x_t - alpha * x_0) / sigma)


def from_velocity(
  process: Process, x_t: Array, t: Array, velocity: Array
) -> Prediction:
  """Inverts velocity = alpha_t eps - sigma_t x_0 (Salimans & Ho 2022, App. D).

  x_0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2),
  eps = (sigma x_t + alpha v) / (alpha^2 + sigma^2); the denominator is 1 for a
  variance preserving process.
  """
  alpha, sigma = _marginal(process, t, x_t, velocity)
  norm = alpha**2 + sigma**2
  return Prediction(
    (alpha * x_t - sigma * velocity) / norm,
    (sigma * x_t + alpha * velocity) / norm,
  )


def from_score(
  process: Process, x_t: Array, t: Array, score: Array
) -> Prediction:
  """eps = -sigma_t score, x_0 = (x_t + sigma_t^2 score) / alpha_t (Tweedie)."""
  _, sigma = _marginal(process, t, x_t, score)
  return from_eps(process, x_t, t, -sigma * score)


def from_mean(
  process: Process, x_t: Array, t: Array, mean: Array
) -> Prediction:
  """Inverts the posterior mean of x_{t-1} (DDPM Eq. 7) for x_0.

  For a discrete process: mean = c_1 x_0 + c_2 x_t with DDPM's coefficients.
  """
  marginal(process, t, x_t)
  ones, zeros = jnp.ones_like(x_t), jnp.zeros_like(x_t)
  c_1, _ = posterior(process, zeros, ones, t, jnp.asarray(t) - 1)
  rest, _ = posterior(process, x_t, zeros, t, jnp.asarray(t) - 1)
  return from_x_0(process, x_t, t, (mean - rest) / c_1)


def velocity_of(process: Process, prediction: Prediction, t: Array) -> Array:
  """velocity = alpha_t eps - sigma_t x_0."""
  alpha, sigma = marginal(process, t, prediction.x_0)
  return alpha * prediction.eps - sigma * prediction.x_0


def score_of(process: Process, prediction: Prediction, t: Array) -> Array:
  """score = -eps / sigma_t, the estimate of grad log q(x_t)."""
  _, sigma = marginal(process, t, prediction.eps)
  return -prediction.eps / sigma


def _marginal(
  process: Process, t: Array, x_t: Array, output: Array
) -> tuple[Array, Array]:
  """`marginal`, after checking that a network's output has x_t's shape."""
  if output.shape != x_t.shape:
    raise ValueError(
      f"the network's output must have x_t's shape {x_t.shape}, got "
      f"{output.shape}"
    )
  return marginal(process, t, x_t)
