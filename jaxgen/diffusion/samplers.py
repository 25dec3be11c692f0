"""Samplers: one step from x_t to x_s, s < t, given only a denoiser.

A sampler is a pair of pure functions, in optax's style: `init(x)` gives the
memory that a multistep method carries (`()` for the others) and
`step(key, x_t, t, s, memory)` one step. Steps may be called by hand; `sample`
scans them over a grid of times.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxgen.diffusion.denoisers import Denoiser
from jaxgen.diffusion.gaussian import normal_like, transition
from jaxgen.diffusion.processes import Process, marginal
from jaxgen.diffusion.reverse import FIXED_SMALL, check_unit, p_mean_variance
from jaxgen.types import Array, Key, PyTree


class Sampler(NamedTuple):
  """A sampling method.

  Attributes:
    init: x `[B, ...]` -> memory.
    step: (key, x_t, t, s, memory) -> (x_s, memory), t and s of shape [].
    T: the process's last time; grids beyond it are refused.
    evaluations: of the network in one step; a first or last step may take one
      more or one less. NFE is that times the steps.
  """

  init: Callable[[Array], PyTree]
  step: Callable[[Key, Array, Array, Array, PyTree], tuple[Array, PyTree]]
  T: int | float = float("inf")
  evaluations: int = 1


def ancestral(
  process: Process,
  denoiser: Denoiser,
  variance: float = FIXED_SMALL,
  gradient: Callable[[Array, Array], Array] | None = None,
) -> Sampler:
  """Ancestral sampling, x_s ~ p(x_s | x_t) of `p_mean_variance`.

  DDPM Algorithm 2, for any s < t; with alpha = 1 it is score-SDE's ancestral
  step (Song et al. 2021, Eq. 47). The last step, to sigma_s = 0, adds no noise.

  Args:
    process: the forward process.
    denoiser: the model.
    variance: FIXED_SMALL, FIXED_LARGE, or a number between, where the denoiser
      predicts no variance of its own. FIXED_LARGE is DDIM's sigma-hat.
    gradient: (x_t, t) -> s grad log p(y | x_t): classifier guidance as in ADM's
      Algorithm 1, mean + Sigma gradient (Dhariwal & Nichol 2021).
  """
  check_unit("variance", variance)

  def step(key, x_t, t, s, memory):
    mean, log_variance = p_mean_variance(
      process, denoiser(x_t, t), x_t, t, s, variance
    )
    if gradient is not None:
      mean = mean + jnp.exp(log_variance) * gradient(x_t, t)
    _, sigma_s = marginal(process, s, x_t)
    std = jnp.where(sigma_s > 0, jnp.exp(0.5 * log_variance), 0.0)
    return mean + std * normal_like(key, x_t), memory

  return Sampler(no_memory, step, process.T)


def ddim(process: Process, denoiser: Denoiser, eta: float = 0.0) -> Sampler:
  """DDIM (Song et al. 2021, Eq. 12 and 16).

  x_s = alpha_s x_0 + sqrt(sigma_s^2 - c^2) eps + c z,
  c = eta (sigma_s / sigma_t) sqrt(b), b = sigma_t^2 - r^2 sigma_s^2.
  eta = 0 is deterministic and runs in both directions: an ascending grid of
  times encodes. eta = 1 equals `ancestral`.

  In y = x / alpha and sigma-hat = sigma / alpha, k-diffusion's coordinates, it
  is y_s = y_t + (sigma_down - sigma-hat_t) eps + sigma_up z with
  sigma_up = eta sigma-hat_s sqrt(1 - (sigma-hat_s / sigma-hat_t)^2) and
  sigma_down^2 = sigma-hat_s^2 - sigma_up^2. So eta = 0 is the sampler known as
  Euler, eta = 1 "Euler a" (`sample_euler_ancestral`), which start from
  sigma_T z and are run over the grids of an `InterpolatedProcess`.

  Args:
    process: the forward process.
    denoiser: the model.
    eta: the paper's eta, in [0, 1].
  """
  check_unit("eta", eta)
  stochastic = not (isinstance(eta, int | float) and eta == 0)

  def step(key, x_t, t, s, memory):
    prediction = denoiser(x_t, t)
    alpha_s, sigma_s = marginal(process, s, x_t)
    if not stochastic:
      return alpha_s * prediction.x_0 + sigma_s * prediction.eps, memory
    _, b = transition(process, t, s, x_t)
    _, sigma_t = marginal(process, t, x_t)
    c = eta * sigma_s / sigma_t * jnp.sqrt(jnp.maximum(b, 0.0))
    direction = jnp.sqrt(jnp.maximum(sigma_s**2 - c**2, 0.0))
    x_s = alpha_s * prediction.x_0 + direction * prediction.eps
    return x_s + c * normal_like(key, x_t), memory

  return Sampler(no_memory, step, process.T)


def no_memory(x: Array) -> tuple[()]:
  """The first memory of a sampler that keeps none."""
  del x
  return ()
