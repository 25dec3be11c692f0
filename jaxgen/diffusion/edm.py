"""EDM (Karras et al. 2022): its process, preconditioning, loss and sampler."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.denoisers import Denoiser, call
from jaxgen.diffusion.gaussian import normal_like
from jaxgen.diffusion.predictions import from_x_0
from jaxgen.diffusion.processes import (
  Process,
  expand,
  marginal,
  register_process,
)
from jaxgen.diffusion.samplers import Sampler
from jaxgen.types import Array, Key, Network


@functools.partial(register_process, data_fields=(), meta_fields=("sigma_max",))
@dataclasses.dataclass(frozen=True)
class KarrasProcess(Process):
  """x_t = x_0 + t z: time is the standard deviation (Karras et al. section 4).

  Attributes:
    sigma_max: the last time.
  """

  sigma_max: float = 80.0

  def __post_init__(self):
    """Refuses a sigma_max that is not positive.

    Raises:
      ValueError: see above.
    """
    if not self.sigma_max > 0:
      raise ValueError(f"sigma_max must be positive, got {self.sigma_max}")

  @property
  def T(self) -> float:  # type: ignore[override]
    """The last time, sigma_max."""
    return self.sigma_max

  @property
  def prior_std(self) -> float:
    """sigma_max."""
    return self.sigma_max

  def alpha(self, t: Array) -> Array:
    """1."""
    return jnp.ones_like(t, jnp.float32)

  def sigma(self, t: Array) -> Array:
    """t."""
    return jnp.asarray(t, jnp.float32)

  def drift(self, x: Array, t: Array) -> Array:
    """f(x, t) = 0."""
    del t
    return jnp.zeros_like(x)

  def diffusion(self, t: Array) -> Array:
    """g(t) = sqrt(2 t)."""
    return jnp.sqrt(2 * jnp.asarray(t))


def karras_times(
  n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
  """n noise levels from sigma_max to sigma_min, then 0 (Eq. 5): `[n + 1]`.

  t_i = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) -
  sigma_max^(1/rho)))^rho. They are times of `KarrasProcess`; `times_of_sigmas`
  makes of them times of an `InterpolatedProcess`.

  Raises:
    ValueError: n < 2, or not 0 < sigma_min < sigma_max.
  """
  if n < 2 or not 0 < sigma_min < sigma_max:
    raise ValueError(
      "karras_times needs n >= 2 and 0 < sigma_min < sigma_max, got "
      f"n = {n}, {sigma_min}, {sigma_max}"
    )
  first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
  levels = np.linspace(first, last, n) ** rho
  return np.append(levels, 0).astype(np.float32)


def edm_denoiser(
  process: Process, network: Network, sigma_data: float = 0.5
) -> Denoiser:
  """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Eq. 7, Table 1).

  The network gets c_noise = ln(sigma) / 4 as its time. Where the process
  scales x_0, D sees x_t / alpha_t, at sigma_t / alpha_t.
  """

  def denoiser(x_t: Array, t: Array):
    alpha, sigma = marginal(process, t, x_t)
    x, sigma = x_t / alpha, sigma / alpha
    c_skip, c_out, c_in = preconditioning(sigma, sigma_data)
    c_noise = jnp.log(sigma).reshape(-1) / 4
    output = call(network, c_in * x, c_noise)
    return from_x_0(process, x_t, t, c_skip * x + c_out * output)

  return denoiser


def preconditioning(
  sigma: Array, sigma_data: float = 0.5
) -> tuple[Array, Array, Array]:
  """(c_skip, c_out, c_in) of Table 1, of sigma's shape."""
  total = sigma**2 + sigma_data**2
  root = jnp.sqrt(total)
  return sigma_data**2 / total, sigma * sigma_data / root, 1 / root


def edm_loss(
  network: Network,
  key: Key,
  x_0: Array,
  sigma: Array | None = None,
  p_mean: float = -1.2,
  p_std: float = 1.2,
  sigma_data: float = 0.5,
) -> Array:
  """E w(sigma) |D(x_0 + sigma z; sigma) - x_0|^2 (Eq. 2, Table 1).

  ln sigma ~ N(p_mean, p_std^2) and w = (sigma^2 + sigma_data^2) / (sigma
  sigma_data)^2 = 1 / c_out^2, so that the network's own target has unit
  variance at every level.

  Args:
    network: F of `edm_denoiser`.
    key: draws sigma and z.
    x_0: `[B, ...]`.
    sigma: `[B]`; random when None.
    p_mean, p_std: of ln sigma.
    sigma_data: standard deviation of the data.

  Returns:
    A scalar, the mean over all dimensions and the batch.
  """
  sigma_key, noise_key = jax.random.split(key)
  if sigma is None:
    sigma = jnp.exp(p_mean + p_std * jax.random.normal(sigma_key, (len(x_0),)))
  x_t = x_0 + expand(sigma, x_0) * normal_like(noise_key, x_0)
  denoised = edm_denoiser(KarrasProcess(), network, sigma_data)(x_t, sigma).x_0
  weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
  return (expand(weight, x_0) * (denoised - x_0) ** 2).mean()


@dataclasses.dataclass(frozen=True)
class Churn:
  """Noise that Algorithm 2 adds before a step.

  Attributes:
    amount: S_churn over the number of steps: gamma = min(amount, sqrt(2) - 1).
    t_min: S_tmin; below it none is added.
    t_max: S_tmax.
    noise: S_noise.
  """

  amount: float
  t_min: float = 0.0
  t_max: float = float("inf")
  noise: float = 1.0


def edm_heun(
  process: Process, denoiser: Denoiser, churn: Churn | None = None
) -> Sampler:
  """Heun's method on the probability flow (Karras et al. Algorithms 1 and 2).

  In y = x / alpha and sigma-hat = sigma / alpha the flow of every process is
  dy / d sigma-hat = eps. An Euler step is DDIM's; Heun's goes along the mean of
  eps here and at its end. A step to sigma = 0 is Euler's.

  Args:
    process: any without churn; `KarrasProcess` with it.
    denoiser: the model.
    churn: of Algorithm 2; None is Algorithm 1, deterministic.

  Raises:
    ValueError: churn on another process.
  """
  if churn is not None and not isinstance(process, KarrasProcess):
    raise ValueError(
      f"churn needs a KarrasProcess, got {type(process).__name__}"
    )

  def step(key, x_t, t, s, memory):
    if churn is not None:
      x_t, t = _add_noise(key, x_t, t, churn)
    alpha_t, sigma_t = marginal(process, t, x_t)
    alpha_s, sigma_s = marginal(process, s, x_t)
    gap = sigma_s / alpha_s - sigma_t / alpha_t
    eps = denoiser(x_t, t).eps
    euler = alpha_s * (x_t / alpha_t + gap * eps)

    def heun(_):
      mean = (eps + denoiser(euler, s).eps) / 2
      return alpha_s * (x_t / alpha_t + gap * mean)

    return jax.lax.cond(sigma_s > 0, heun, lambda _: euler, None), memory

  return Sampler(lambda x: (), step, process.T, evaluations=2)


def _add_noise(key: Key, x: Array, t: Array, churn: Churn) -> tuple[Any, Any]:
  """x at the higher level t (1 + gamma), lines 4 to 6 of Algorithm 2."""
  inside = (t >= churn.t_min) & (t <= churn.t_max)
  gamma = jnp.where(inside, min(churn.amount, np.sqrt(2) - 1), 0.0)
  higher = t * (1 + gamma)
  added = jnp.sqrt(jnp.maximum(higher**2 - t**2, 0)) * churn.noise
  return x + added * normal_like(key, x), higher
