"""The forward process in closed form: sampling x_t, and its Bayes inverse."""

import jax.numpy as jnp

from jaxgen import random
from jaxgen.diffusion.processes import Process, expand, marginal
from jaxgen.types import Array, Key


def q_sample(
  process: Process, key: Key, x_0: Array, t: Array
) -> tuple[Array, Array]:
  """x_t = alpha_t x_0 + sigma_t eps, eps ~ N(0, I) (DDPM Eq. 4).

  Args:
    process: the forward process.
    key: one key, or a batch of keys `[B]`, one per example.
    x_0: `[B, ...]`.
    t: `[]` or `[B]`.

  Returns:
    (x_t, eps), both of x_0's shape.
  """
  alpha, sigma = marginal(process, t, x_0)
  eps = normal_like(key, x_0)
  return alpha * x_0 + sigma * eps, eps


def transition(
  process: Process, t: Array, s: Array, x: Array
) -> tuple[Array, Array]:
  """(r, b) of q(x_t | x_s) = N(r x_s, b I) for s < t.

  r = alpha_t / alpha_s, b = sigma_t^2 - r^2 sigma_s^2, the latter computed as
  sigma_t^2 times `process.fresh`. With s = t - 1 on DDPM's
  table, r = sqrt(1 - beta_t) and b = beta_t.
  """
  alpha_t, sigma_t = marginal(process, t, x)
  alpha_s, _ = marginal(process, s, x)
  fresh = expand(process.fresh(jnp.asarray(t), jnp.asarray(s)), x)
  return alpha_t / alpha_s, sigma_t**2 * fresh


def posterior(
  process: Process, x_t: Array, x_0: Array, t: Array, s: Array
) -> tuple[Array, Array]:
  """Mean and variance of q(x_s | x_t, x_0) for s < t.

  mean = (alpha_s b x_0 + r sigma_s^2 x_t) / sigma_t^2,
  variance = b sigma_s^2 / sigma_t^2, with (r, b) of `transition`.
  For s = t - 1 this is DDPM Eq. 6-7 (variance: beta-tilde_t); for any s it is
  improved DDPM's strided step, and with alpha = 1 score-SDE's ancestral step.

  Args:
    process: the forward process.
    x_t: `[B, ...]`.
    x_0: `[B, ...]`.
    t: `[]` or `[B]`, with sigma_t > 0.
    s: `[]` or `[B]`, s < t elementwise.

  Returns:
    mean of x_t's shape; variance of shape [] or [B, 1, ...].
  """
  if x_t.shape != x_0.shape:
    raise ValueError(
      f"x_t and x_0 must have one shape, got {x_t.shape} and {x_0.shape}"
    )
  alpha_t, sigma_t = marginal(process, t, x_t)
  alpha_s, sigma_s = marginal(process, s, x_t)
  fresh = expand(process.fresh(jnp.asarray(t), jnp.asarray(s)), x_t)
  kept = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2
  return alpha_s * fresh * x_0 + kept * x_t, fresh * sigma_s**2


def snr(process: Process, t: Array) -> Array:
  """Signal-to-noise ratio alpha_t^2 / sigma_t^2, of t's shape."""
  return (process.alpha(t) / process.sigma(t)) ** 2


def prior(process: Process, key: Key, shape: tuple[int, ...]) -> Array:
  """The start point of sampling, x_T ~ N(0, prior_std^2 I).

  Args:
    process: the forward process.
    key: one key, or a batch of keys `[B]`, one per example.
    shape: `[B, ...]`.
  """
  return process.prior_std * normal_like(key, jnp.zeros(shape, jnp.float32))


def normal_like(key: Key, x: Array) -> Array:
  """Standard normal noise of x's shape and dtype.

  With a batch of keys `[B]` each example's noise depends on its own key alone,
  whatever the batch size and the number of devices.
  """
  shape = x.shape[1:] if random.is_batch(key) else x.shape
  return random.normal(key, shape, x.dtype)
