"""Forward processes q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I).

A process is a subclass of `Process` with `alpha(t)`, `sigma(t)`, `T` and
`prior_std`; the rest of the library asks for nothing else. `T` is an int for a
discrete process (t in {0, ..., T}) and a float for a continuous one
(t in [0, T]). Time is the papers': t = 0 is data, t = T is noise.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.schedules import _checked_betas
from jaxgen.types import Array


class Process:
  """What samplers, losses and likelihoods need of a forward process.

  Attributes:
    T: the last time: an int makes the process discrete.
  """

  T: Any

  @property
  def prior_std(self) -> Any:
    """Standard deviation of the start point x_T ~ N(0, prior_std^2 I)."""
    raise NotImplementedError

  def alpha(self, t: Array) -> Array:
    """Scale of x_0 in x_t, of t's shape."""
    raise NotImplementedError

  def sigma(self, t: Array) -> Array:
    """Standard deviation of the noise in x_t, of t's shape."""
    raise NotImplementedError

  def fresh(self, t: Array, s: Array) -> Array:
    """1 - snr_t / snr_s: the share of x_t's noise that entered after s < t."""
    kept = self.alpha(t) / self.alpha(s) * self.sigma(s) / self.sigma(t)
    return (1 - kept) * (1 + kept)


def register_process(
  cls: type, data_fields: Sequence[str], meta_fields: Sequence[str] = ("T",)
) -> type:
  """Makes a dataclass a pytree node, and returns it.

  Not by `register_dataclass`: jaxlib holds the structures of any two of its
  classes for equal where their fields are, so that jit now and then runs the
  program of the VP SDE for the sub-VP one.

  Args:
    cls: the dataclass.
    data_fields: names of its children.
    meta_fields: names of the fields that are part of the structure.
  """

  def flatten(process):
    children, meta = (
      tuple(getattr(process, name) for name in names)
      for names in (data_fields, meta_fields)
    )
    return children, meta

  def unflatten(meta, children):
    process: Any = object.__new__(cls)  # children may be no numbers: no checks
    values = zip((*data_fields, *meta_fields), (*children, *meta), strict=True)
    for name, value in values:
      object.__setattr__(process, name, value)
    return process

  jax.tree_util.register_pytree_node(cls, flatten, unflatten)
  return cls


@functools.partial(
  register_process, data_fields=("alphas", "sigmas", "log_snrs")
)
@dataclasses.dataclass(frozen=True)
class DiscreteProcess(Process):
  """Tables of alpha_t and sigma_t for t in {0, ..., T}.

  Build it with `from_betas` (DDPM) or `from_sigmas` (SMLD). A time outside
  {0, ..., T} is a ValueError, or NaN where t is traced by jit.

  Attributes:
    alphas: float32 `[T + 1]`.
    sigmas: float32 `[T + 1]`; sigmas[0] = 0, so t = 0 is data.
    log_snrs: float32 `[T + 1, 2]`, log snr_t as the sum of two floats.
    T: the number of noising steps.
  """

  alphas: Array
  sigmas: Array
  log_snrs: Array
  T: int

  @classmethod
  def from_betas(cls, betas: Any) -> "DiscreteProcess":
    """DDPM's chain q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I).

    alpha_t^2 = abar_t = prod_{s <= t} (1 - beta_s), sigma_t^2 = 1 - abar_t
    (Ho et al. 2020, Eq. 4). The prior is N(0, I).

    Args:
      betas: `[T]` in (0, 1); betas[t - 1] is the paper's beta_t.
    """
    betas = _checked_betas(np.asarray(betas, np.float64))
    log_abar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
    return cls._from_tables(np.exp(log_abar / 2), np.sqrt(-np.expm1(log_abar)))

  @classmethod
  def from_sigmas(cls, sigmas: Any) -> "DiscreteProcess":
    """SMLD's chain x_t = x_0 + sigma_t z (Song et al. 2021, Eq. 20 and App. B).

    The prior is N(0, sigma_T^2 I).

    Args:
      sigmas: `[T]`, ascending and positive: sigma_1 < ... < sigma_T.
    """
    sigmas = np.asarray(sigmas, np.float64)
    if sigmas.ndim != 1 or sigmas.size == 0:
      raise ValueError(
        f"sigmas must have shape [T], T >= 1, got {sigmas.shape}"
      )
    if not (sigmas[0] > 0 and (np.diff(sigmas) > 0).all()):
      raise ValueError(
        "sigmas must be positive and ascending (geometric_sigmas(...)[::-1]), "
        f"got {sigmas[0]:g}, ..., {sigmas[-1]:g}"
      )
    sigmas = np.concatenate([[0.0], sigmas])
    return cls._from_tables(np.ones_like(sigmas), sigmas)

  @classmethod
  def _from_tables(
    cls, alphas: np.ndarray, sigmas: np.ndarray
  ) -> "DiscreteProcess":
    exact = 2 * (np.log(alphas[1:]) - np.log(sigmas[1:]))
    high = np.append(np.inf, exact.astype(np.float32))
    low = np.append(0.0, exact - high[1:])
    return cls(
      alphas=jnp.asarray(alphas, jnp.float32),
      sigmas=jnp.asarray(sigmas, jnp.float32),
      log_snrs=jnp.asarray(np.stack([high, low], 1), jnp.float32),
      T=len(alphas) - 1,
    )

  @property
  def prior_std(self) -> Array:
    """1, or sigma_T where alpha_T = 1, that is variance explodes."""
    return jnp.where(self.alphas[-1] < 1, 1.0, self.sigmas[-1])

  def alpha(self, t: Array) -> Array:
    """Scale of x_0 in x_t."""
    return self._look_up(self.alphas, t)

  def sigma(self, t: Array) -> Array:
    """Standard deviation of the noise in x_t."""
    return self._look_up(self.sigmas, t)

  def fresh(self, t: Array, s: Array) -> Array:
    """1 - snr_t / snr_s.

    Neighbours' alpha and sigma in float32 differ too little for that (1e-4
    relative at T = 4000); the two-float table keeps six digits.
    """
    gap = self._look_up(self.log_snrs, t) - self._look_up(self.log_snrs, s)
    return -jnp.expm1(gap.sum(-1))

  def _look_up(self, table: Array, t: Array) -> Array:
    if not jnp.issubdtype(jnp.result_type(t), jnp.integer):
      raise TypeError(
        f"a DiscreteProcess takes integer t in {{0, ..., {self.T}}}, got dtype "
        f"{jnp.result_type(t)}"
      )
    _check_range(t, 0, self.T)
    return table.at[t].get(
      mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
    )


@functools.partial(register_process, data_fields=("beta_min", "beta_max"))
@dataclasses.dataclass(frozen=True)
class VPSDE(Process):
  """Variance preserving SDE (Song et al. 2021, Eq. 11, 29, 33), t in [0, 1].

  dx = -beta(t) / 2 x dt + sqrt(beta(t)) dw,
  beta(t) = beta_min + t (beta_max - beta_min).
  alpha = exp(L), sigma^2 = 1 - exp(2 L),
  L(t) = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2.
  """

  beta_min: float = 0.1
  beta_max: float = 20.0
  T: float = 1.0

  def __post_init__(self):
    _check_order("beta", self.beta_min, self.beta_max)

  @property
  def prior_std(self) -> float:
    """The prior is N(0, I)."""
    return 1.0

  def beta(self, t: Array) -> Array:
    """The noise rate beta(t)."""
    return self.beta_min + t * (self.beta_max - self.beta_min)

  def log_alpha(self, t: Array) -> Array:
    """L(t) = log alpha(t) = -1/2 of the integral of beta from 0 to t."""
    _check_range(t, 0, self.T)
    slope = self.beta_max - self.beta_min
    return -0.25 * t**2 * slope - 0.5 * t * self.beta_min

  def alpha(self, t: Array) -> Array:
    """Scale of x_0 in x_t."""
    return jnp.exp(self.log_alpha(t))

  def sigma(self, t: Array) -> Array:
    """Standard deviation of the noise in x_t."""
    return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))

  def drift(self, x: Array, t: Array) -> Array:
    """f(x, t) = -beta(t) / 2 x."""
    return -0.5 * expand(self.beta(t), x) * x

  def diffusion(self, t: Array) -> Array:
    """g(t) = sqrt(beta(t))."""
    return jnp.sqrt(self.beta(t))


@functools.partial(register_process, data_fields=("beta_min", "beta_max"))
@dataclasses.dataclass(frozen=True)
class SubVPSDE(VPSDE):
  """Sub-VP SDE (Song et al. 2021, Eq. 12, 29, App. C), t in [0, 1].

  The drift and alpha of the VP SDE, with less noise:
  sigma = 1 - exp(2 L), g^2 = beta(t) (1 - exp(4 L)).
  """

  def sigma(self, t: Array) -> Array:
    """Standard deviation of the noise in x_t."""
    return -jnp.expm1(2 * self.log_alpha(t))

  def diffusion(self, t: Array) -> Array:
    """g(t) = sqrt(beta(t) (1 - exp(4 L(t))))."""
    return jnp.sqrt(self.beta(t) * -jnp.expm1(4 * self.log_alpha(t)))


@functools.partial(register_process, data_fields=("sigma_min", "sigma_max"))
@dataclasses.dataclass(frozen=True)
class VESDE(Process):
  """Variance exploding SDE (Song et al. 2021, Eq. 9, 30), t in [0, 1].

  alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t. As in the paper
  sigma(0) = sigma_min: x at t = 0 is data with noise of that size.
  """

  sigma_min: float = 0.01
  sigma_max: float = 50.0
  T: float = 1.0

  def __post_init__(self):
    _check_order("sigma", self.sigma_min, self.sigma_max)

  @property
  def prior_std(self) -> float:
    """The prior is N(0, sigma_max^2 I)."""
    return self.sigma_max

  def alpha(self, t: Array) -> Array:
    """Scale of x_0 in x_t: 1."""
    _check_range(t, 0, self.T)
    return jnp.ones_like(t, jnp.float32)

  def sigma(self, t: Array) -> Array:
    """Standard deviation of the noise in x_t."""
    _check_range(t, 0, self.T)
    return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

  def drift(self, x: Array, t: Array) -> Array:
    """f(x, t) = 0."""
    del t
    return jnp.zeros_like(x)

  def diffusion(self, t: Array) -> Array:
    """g(t) = sigma(t) sqrt(2 log(sigma_max / sigma_min))."""
    ratio = self.sigma_max / self.sigma_min
    return self.sigma(t) * jnp.sqrt(2 * jnp.log(ratio))


def expand(a: Array, x: Array) -> Array:
  """`a` of shape [] or [B], with axes of size 1 added to broadcast over x."""
  a = jnp.asarray(a)
  if a.ndim == 0:
    return a
  if a.ndim != 1 or a.shape[0] not in (1, x.shape[0]):
    raise ValueError(
      f"t must have shape [] or [B] = [{x.shape[0]}] for x of shape {x.shape}, "
      f"got {a.shape}"
    )
  return a.reshape(a.shape + (1,) * (x.ndim - 1))


def marginal(process: Process, t: Array, x: Array) -> tuple[Array, Array]:
  """(alpha_t, sigma_t) of q(x_t | x_0), shaped to broadcast over x.

  Args:
    process: the forward process.
    t: `[]` or `[B]`.
    x: `[B, ...]`.

  Returns:
    Two float32 arrays of shape [] or [B, 1, ...].
  """
  return expand(process.alpha(t), x), expand(process.sigma(t), x)


def _check_order(name: str, low: Any, high: Any) -> None:
  """Raises unless 0 < low < high; only Python numbers can be looked at."""
  numbers = isinstance(low, int | float) and isinstance(high, int | float)
  if numbers and not 0 < low < high:
    raise ValueError(
      f"{name}_min and {name}_max must satisfy 0 < {name}_min < {name}_max, "
      f"got {low} and {high}"
    )


def _check_range(t: Any, low: float, high: float) -> None:
  """Raises for a concrete t outside [low, high]; a traced t passes."""
  if isinstance(t, jax.core.Tracer):
    return
  values = np.asarray(t)
  if values.size and not (low <= values.min() and values.max() <= high):
    raise ValueError(
      f"t must lie in [{low}, {high}], got values in "
      f"[{values.min():g}, {values.max():g}]"
    )
