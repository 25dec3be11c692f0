"""Noise levels between those of a discrete process."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.processes import (
  DiscreteProcess,
  Process,
  _check_range,
  register_process,
)
from jaxgen.types import Array


@functools.partial(register_process, data_fields=("discrete",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class InterpolatedProcess(Process):
  """A discrete process at every real t in [0, T].

  Between whole t >= 1, log(sigma_t / alpha_t) is linear in t: k-diffusion's
  `t_to_sigma`, by which samplers ask a network for any noise level. From data
  to t = 1, where that logarithm has no start, sigma_t / alpha_t itself is
  linear. At whole t it is the discrete process, whose grids it takes too; the
  network gets a t that need not be whole. Its own grids are `times_of_sigmas`
  and `linspace_times`.

  Attributes:
    discrete: with T >= 2.
  """

  discrete: DiscreteProcess

  def __post_init__(self):
    """Refuses what has no levels to interpolate.

    Raises:
      ValueError: see above.
    """
    T = getattr(self.discrete, "T", None)
    if not isinstance(self.discrete, DiscreteProcess) or self.discrete.T < 2:
      raise ValueError(
        "an InterpolatedProcess needs a DiscreteProcess of T >= 2, got "
        f"{type(self.discrete).__name__} of T = {T}"
      )

  @property
  def T(self) -> float:  # type: ignore[override]
    """The last time; a float, for time is continuous."""
    return float(self.discrete.T)

  @property
  def prior_std(self) -> Array:
    """That of the discrete process."""
    return self.discrete.prior_std

  @property
  def sigma_min(self) -> float:
    """sigma / alpha at t = 1, the lowest level its network was trained at."""
    return float(self.levels()[0])

  @property
  def sigma_max(self) -> float:
    """sigma / alpha at t = T."""
    return float(self.levels()[-1])

  def levels(self) -> np.ndarray:
    """sigma / alpha at t = 1, ..., T, float64 `[T]`, on the host."""
    return np.exp(-np.asarray(self.discrete.log_snrs[1:], float).sum(1) / 2)

  def alpha(self, t: Array) -> Array:
    """Scale of x_0 in x_t."""
    alpha = jnp.sqrt(jax.nn.sigmoid(self._log_snr(t).sum(-1)))
    return jnp.where(self._preserves_variance(), alpha, 1.0)

  def sigma(self, t: Array) -> Array:
    """Standard deviation of the noise in x_t."""
    log_snr = self._log_snr(t).sum(-1)
    sigma = jnp.sqrt(jax.nn.sigmoid(-log_snr))
    return jnp.where(self._preserves_variance(), sigma, jnp.exp(-log_snr / 2))

  def fresh(self, t: Array, s: Array) -> Array:
    """1 - snr_t / snr_s, from two-float tables as the discrete process's."""
    return -jnp.expm1((self._log_snr(t) - self._log_snr(s)).sum(-1))

  def _preserves_variance(self) -> Array:
    return self.discrete.alphas[-1] < 1

  def _log_snr(self, t: Array) -> Array:
    """log snr_t as the sum of two floats, `[..., 2]`; NaN outside [0, T]."""
    _check_range(t, 0, self.T)
    table = self.discrete.log_snrs
    t = jnp.asarray(t, jnp.float32)
    low = jnp.clip(jnp.floor(t), 1, self.discrete.T - 1).astype(jnp.int32)
    w = (t - low.astype(jnp.float32))[..., None]
    between = (1 - w) * table[low] + w * table[low + 1]
    near_data = jnp.stack(
      [table[1, 0] - 2 * jnp.log(t), jnp.full_like(t, table[1, 1])], -1
    )
    log_snr = jnp.where(t[..., None] < 1, near_data, between)
    inside = (t >= 0) & (t <= self.T)
    return jnp.where(inside[..., None], log_snr, jnp.nan)
