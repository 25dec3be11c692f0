"""The model's reverse step p(x_s | x_t): DDPM's mean, and every variance."""

import jax.numpy as jnp

from jaxgen.diffusion.gaussian import posterior, transition
from jaxgen.diffusion.predictions import Prediction
from jaxgen.diffusion.processes import Process
from jaxgen.types import Array

FIXED_SMALL = 0.0  # beta-tilde_t, the posterior variance
FIXED_LARGE = 1.0  # beta_t


def p_mean_variance(
  process: Process,
  prediction: Prediction,
  x_t: Array,
  t: Array,
  s: Array,
  variance: float = FIXED_SMALL,
  floor: Array | float = 1e-20,
) -> tuple[Array, Array]:
  """Mean and log-variance of p(x_s | x_t) for s < t.

  The mean is the posterior's at the estimated x_0 (DDPM Eq. 7 and 11). The
  variance is improved DDPM's Eq. 15 (Nichol & Dhariwal 2021),

    log Sigma = v log b + (1 - v) log(posterior variance),

  b of `transition` (beta_t for s = t - 1): v = 0 is DDPM's fixed small choice,
  v = 1 its fixed large one (its section 3.2), and a learned `prediction.v`
  takes its place, as a learned `prediction.log_variance` does the whole.

  Args:
    process: the forward process.
    prediction: the model's estimate at x_t.
    x_t: `[B, ...]`.
    t: `[]` or `[B]`.
    s: `[]` or `[B]`, s < t.
    variance: v where none is predicted, in [0, 1].
    floor: the least posterior variance. It is 0 at s = 0, where the published
      likelihoods put that of the step before, also for the fixed large choice.

  Returns:
    mean of x_t's shape, log-variance that broadcasts to it.
  """
  check_unit("variance", variance)
  mean, small = posterior(process, x_t, prediction.x_0, t, s)
  if prediction.log_variance is not None:
    return mean, prediction.log_variance
  _, large = transition(process, t, s, x_t)
  log_small = jnp.log(jnp.maximum(small, floor))
  log_large = jnp.log(jnp.maximum(large, 1e-37))
  if prediction.v is not None:
    return mean, prediction.v * log_large + (1 - prediction.v) * log_small
  fixed = variance * log_large + (1 - variance) * log_small
  return mean, jnp.where(small > 0, fixed, jnp.log(floor))


def check_unit(name: str, value: float | Array) -> None:
  """Raises for a Python number outside [0, 1]; arrays pass."""
  if isinstance(value, int | float) and not 0 <= value <= 1:
    raise ValueError(f"{name} must lie in [0, 1], got {value}")
