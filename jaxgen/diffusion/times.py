"""Grids of times, built and checked on the host.

A grid t_0, ..., t_n is strictly monotone and holds n steps. Time is the
papers': t = 0 is data, so a sampling grid descends and ends at 0 (discrete
processes) or at a small eps (continuous ones). Grids that the papers' code
counts from 0 (its 0 is the first noise level) stand here shifted by one, with
the final 0 added.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.interpolated import InterpolatedProcess
from jaxgen.diffusion.processes import Process
from jaxgen.types import Array, Key


def descending_times(T: int, n: int) -> np.ndarray:
  """n + 1 integers from T to 0, as evenly spaced as rounding allows.

  n = T is DDPM's own grid T, T - 1, ..., 0.
  """
  _check_steps(T, n)
  return np.rint(np.linspace(T, 0, n + 1)).astype(np.int32)


def uniform_times(T: int, n: int) -> np.ndarray:
  """DDIM's linear tau (Song et al. 2021, App. D.2), T = 1000, n = 10:

  901, 801, ..., 1, 0. n must divide T: for another n the official code takes a
  different number of steps than it was asked for.
  """
  _check_steps(T, n)
  if T % n:
    raise ValueError(
      f"uniform_times needs n that divides T = {T}, got n = {n}; "
      "respaced_times and descending_times take any n"
    )
  return _from_zero_based(np.arange(0, T, T // n))


def quadratic_times(T: int, n: int) -> np.ndarray:
  """DDIM's quadratic tau (Song et al. 2021, App. D.2), its CIFAR-10 grid.

  tau_i = floor(linspace(0, sqrt(0.8 T), n)_i^2), for T = 1000, n = 10:
  801, 633, 484, ..., 10, 1, 0. Repeated times, which are steps that do nothing,
  are dropped, so that n = 50 gives 49 steps.
  """
  _check_steps(T, n)
  tau = np.linspace(0, np.sqrt(0.8 * T), n) ** 2
  return _from_zero_based(np.unique(tau.astype(int)))


def sd1_times(n: int) -> np.ndarray:
  """The grid of latent diffusion and Stable Diffusion 1, of T = 1000.

  n = 50: 982, 962, ..., 22, 2, 1. It is one noise level above `uniform_times`
  and ends at the first, not at data: in the released code of Rombach et al.
  2022 timesteps, which count from 0, are 981, ..., 21, 1, and the last
  alpha-bar is that of timestep 0.

  Raises:
    ValueError: n is not below 1000 or does not divide it: there the released
      code takes another number of steps than it was asked for, or fails.
  """
  gap = 1000 // n if 1 <= n < 1000 else 1000
  taus = np.arange(0, 1000, gap)
  if len(taus) != n:
    runs = 1 <= n < 1000 and taus[-1] < 999
    known = f", for which the released code takes {len(taus)} steps"
    raise ValueError(
      "sd1_times needs n < 1000 that divides 1000, got "
      f"{n}{known if runs else ''}"
    )
  return np.append(taus[::-1] + 2, 1).astype(np.int32)


def linspace_times(T: int, n: int) -> np.ndarray:
  """n evenly spaced times from T to 1, not rounded, then 0: float32 `[n + 1]`.

  For an `InterpolatedProcess`: the noise levels that k-diffusion samples at
  unless told otherwise (`get_sigmas`), diffusers' spacing "linspace".
  """
  _check_steps(T, n)
  return np.append(np.linspace(T, 1, n), 0).astype(np.float32)


def times_of_sigmas(
  process: InterpolatedProcess, sigmas: Sequence[float] | np.ndarray
) -> np.ndarray:
  """The times at which sigma_t / alpha_t is `sigmas`, float32, of its shape.

  k-diffusion's `sigma_to_t`. With it the grids of Karras et al. 2022 serve
  networks that were trained at discrete levels, such as Stable Diffusion 1's
  from 14.6146 to 0.0291672:

    sigmas = karras_times(20, process.sigma_min, process.sigma_max)
    times = times_of_sigmas(process, sigmas)

  Args:
    process: of the network.
    sigmas: in [0, `process.sigma_max`], up to rounding.

  Raises:
    ValueError: one is outside.
  """
  sigmas, levels = np.asarray(sigmas, np.float64), process.levels()
  if not ((sigmas >= 0) & (sigmas <= levels[-1] * (1 + 1e-4))).all():
    raise ValueError(
      f"times_of_sigmas needs sigmas in [0, {levels[-1]:g}] of the process, "
      f"got values in [{sigmas.min():g}, {sigmas.max():g}]"
    )
  logs = np.log(np.maximum(sigmas, levels[0]))
  times = np.interp(logs, np.log(levels), np.arange(1, len(levels) + 1))
  below = sigmas < levels[0]
  return np.where(below, sigmas / levels[0], times).astype(np.float32)


def respaced_times(T: int, spec: str) -> np.ndarray:
  """Improved DDPM's respacing (Nichol & Dhariwal 2021, section 4).

  Args:
    T: the number of noising steps.
    spec: section counts such as "250" or "10,10,20": {0, ..., T - 1} is split
      into sections of equal size and each contributes that many times, both
      ends included; or "ddimN" for an integer stride with exactly N times.
  """
  if spec.startswith("ddim"):
    n = _count(spec.removeprefix("ddim"), spec)
    for stride in range(1, T):
      if len(range(0, T, stride)) == n:
        return _from_zero_based(np.arange(0, T, stride))
    raise ValueError(f"no integer stride takes {n} of {T} steps ({spec!r})")
  counts = [_count(c, spec) for c in spec.split(",")]
  taus: list[int] = []
  start = 0
  for i, count in enumerate(counts):
    size = T // len(counts) + (i < T % len(counts))
    if count > size:
      raise ValueError(
        f"respacing {spec!r} asks for {count} times in a section of {size} "
        f"(T = {T})"
      )
    gap = (size - 1) / (count - 1) if count > 1 else 1.0
    # Repeated addition and rounding to even reproduce the published sets.
    offset = 0.0
    for _ in range(count):
      taus.append(start + round(offset))
      offset += gap
    start += size
  return _from_zero_based(np.asarray(taus))


def continuous_times(process: Process, n: int, eps: float) -> np.ndarray:
  """n + 1 evenly spaced times from T to eps (score-SDE), float32.

  The paper samples with eps = 1e-3 (VP, sub-VP) or 1e-5 (VE).
  """
  if n < 1 or not 0 <= eps < process.T:
    raise ValueError(
      f"continuous_times needs n >= 1 and eps in [0, {process.T}), got n={n}, "
      f"eps={eps}"
    )
  return np.linspace(process.T, eps, n + 1, dtype=np.float32)


def random_times(
  process: Process, key: Key, n: int, eps: float = 1e-5
) -> Array:
  """n training times: uniform on {1, ..., T}, or on [eps, T] if continuous."""
  if isinstance(process.T, int):
    return jax.random.randint(key, (n,), 1, process.T + 1)
  return jax.random.uniform(key, (n,), minval=eps, maxval=process.T)


def check_times(times: np.ndarray | Array, T: int | float) -> Array:
  """The grid as an array, or a ValueError if it is not a grid on [0, T].

  A grid traced by jit cannot be looked at and passes.
  """
  if not isinstance(times, jax.core.Tracer):
    host = np.asarray(times)
    if host.ndim != 1 or host.size < 2:
      raise ValueError(
        f"times must have shape [n + 1] with n >= 1, got {host.shape}"
      )
    gaps = np.diff(host)
    if not ((gaps > 0).all() or (gaps < 0).all()):
      shown = np.array2string(host, threshold=8)
      raise ValueError(f"times must be strictly monotone, got {shown}")
    if host.min() < 0 or host.max() > T:
      raise ValueError(
        f"times must lie in [0, {T}], got {host[0]:g}, ..., {host[-1]:g}"
      )
  return jnp.asarray(times)


def _from_zero_based(taus: np.ndarray) -> np.ndarray:
  """Ascending times counted from 0 -> a descending grid that ends at data."""
  return np.concatenate([taus[::-1] + 1, [0]]).astype(np.int32)


def _check_steps(T: int, n: int) -> None:
  if not 1 <= n <= T:
    raise ValueError(f"the number of steps must lie in [1, T = {T}], got {n}")


def _count(text: str, spec: str) -> int:
  if not text.strip().isdigit() or int(text) < 1:
    raise ValueError(
      f'a respacing is "N", "N,N,..." or "ddimN" with N >= 1, got {spec!r}'
    )
  return int(text)
