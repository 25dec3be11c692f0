"""The probability flow ODE with adaptive steps: samples, latents, likelihoods.

The solver runs on the device, inside one compiled program, through diffrax
(`pip install 'jaxgen[ode]'`): Dormand and Prince's pair of orders 5 and 4, the
RK45 of the paper. As there a batch is one system, whose steps satisfy the
tolerances in root mean square over the batch: an example depends on its
neighbours within the tolerances. Under `jit` the batch may be sharded over
devices.
"""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.denoisers import Denoiser
from jaxgen.diffusion.gaussian import normal_like
from jaxgen.diffusion.processes import Process
from jaxgen.diffusion.sde_solvers import probability_flow
from jaxgen.types import Array, Key, PyTree

Probe = Literal["rademacher", "gaussian"]


class Tolerances(NamedTuple):
  """When an adaptive step is accepted; the paper's by default.

  Attributes:
    rtol: relative to x.
    atol: absolute.
    max_steps: after which the result is NaN.
  """

  rtol: float = 1e-5
  atol: float = 1e-5
  max_steps: int = 4096


PAPER = Tolerances()
# A log-likelihood is the sum of a rate along the whole path: at the paper's
# tolerances it may be off by more than 1e-3 nats.
TIGHT = Tolerances(1e-6, 1e-6)


class OdeFlow(NamedTuple):
  """Where the flow leads.

  Attributes:
    x: `[B, ...]`.
    num_evaluations: of the network, `[]`: NFE.
  """

  x: Array
  num_evaluations: Array


class OdeLikelihood(NamedTuple):
  """The likelihood of a model's probability flow.

  Attributes:
    log_likelihood: of each example, in nats, `[B]`.
    latent: x_T, of x_0's shape.
    num_evaluations: of the network, `[]`: NFE. The exact trace differentiates
      each of them in every dimension.
  """

  log_likelihood: Array
  latent: Array
  num_evaluations: Array


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("bits_per_dim", "latent", "num_evaluations"),
  meta_fields=("protocol",),
)
@dataclasses.dataclass(frozen=True)
class OdeBits:
  """Bits per dimension of 8-bit images.

  Attributes:
    bits_per_dim: of each image, `[B]`.
    latent: x_T, of the images' shape.
    num_evaluations: of the network, `[]`.
    protocol: what was measured, in words.
  """

  bits_per_dim: Array
  latent: Array
  num_evaluations: Array
  protocol: str


def ode_flow(
  process: Process,
  denoiser: Denoiser,
  x: Array,
  t: float,
  s: float,
  tolerances: Tolerances = PAPER,
) -> OdeFlow:
  """Follows the probability flow from x at t to time s, up or down.

  Args:
    process: a continuous process.
    denoiser: the model.
    x: `[B, ...]`.
    t: where x is.
    s: where the flow ends.
    tolerances: of the solver.

  Raises:
    ValueError: the process is discrete.
    ImportError: diffrax is missing.
  """
  velocity = probability_flow(process, denoiser)
  x, count = _solve(lambda t, x: velocity(x, t), x, t, s, tolerances)
  return OdeFlow(x, count)


def ode_sample(
  process: Process,
  denoiser: Denoiser,
  x_T: Array,
  t_end: float = 1e-5,
  tolerances: Tolerances = PAPER,
) -> OdeFlow:
  """x at t_end from x_T by the probability flow (Song et al. 2021, sec. 4.3).

  The paper ends at 1e-5 for VE and at 1e-3 for VP and sub-VP. It does not
  denoise the last x; `denoiser(x, t_end).x_0` does. Arguments and errors as in
  `ode_flow`.
  """
  return ode_flow(process, denoiser, x_T, process.T, t_end, tolerances)


def ode_encode(
  process: Process,
  denoiser: Denoiser,
  x_0: Array,
  t_start: float = 1e-5,
  tolerances: Tolerances = PAPER,
) -> OdeFlow:
  """The latent x_T of x_0 (Song et al. 2021, section 4.3); undoes `ode_sample`.

  Arguments and errors as in `ode_flow`.
  """
  return ode_flow(process, denoiser, x_0, t_start, process.T, tolerances)


def ode_log_likelihood(
  process: Process,
  denoiser: Denoiser,
  x_0: Array,
  key: Key | None = None,
  probe: Probe = "rademacher",
  t_start: float = 1e-5,
  tolerances: Tolerances = TIGHT,
) -> OdeLikelihood:
  """log p(x_0) = log prior(x_T) + the integral of div dx / dt from 0 to T.

  The instantaneous change of variables along the probability flow (Song et al.
  2021, Eq. 39, after Chen et al. 2018).

  Args:
    process: a continuous process.
    denoiser: the model.
    x_0: `[B, ...]`.
    key: draws the probe e of Hutchinson's estimate e' (d velocity / d x) e of
      the divergence, one for the whole path (Eq. 40; Grathwohl et al. 2019);
      one key, or one for each example. None takes the exact trace, which costs
      as many directions as x has dimensions.
    probe: the distribution of e; the released code's is Rademacher's.
    t_start: the time that stands for 0; the paper's is 1e-5.
    tolerances: of the solver.

  Raises:
    ValueError: the process is discrete, or the probe is unknown.
    ImportError: diffrax is missing.
  """
  velocity = probability_flow(process, denoiser)
  e = None if key is None else _draw_probe(key, x_0, probe)

  def rates(t, state):
    flow = lambda x: velocity(x, t)
    if e is None:
      return _exact_divergence(flow, state[0])
    change, tangent = jax.jvp(flow, (state[0],), (e,))
    return change, _sum_flat(tangent * e)

  start = (x_0, jnp.zeros(len(x_0), x_0.dtype))
  (latent, gain), count = _solve(rates, start, t_start, process.T, tolerances)
  return OdeLikelihood(
    _prior_log_density(process, latent) + gain, latent, count
  )


def ode_bits_per_dim(
  process: Process,
  denoiser: Denoiser,
  key: Key,
  images: Array,
  low: float = -1.0,
  high: float = 1.0,
  exact: bool = False,
  probe: Probe = "rademacher",
  t_start: float = 1e-5,
  tolerances: Tolerances = PAPER,
) -> OdeBits:
  """-log2 p / D of 8-bit images, uniformly dequantised (Song et al. 2021, 4.3).

  x = (k + u) / 256, u uniform on [0, 1), scaled to [low, high]: a bin is
  (high - low) / 256 wide, which adds 8 - log2(high - low) bits to those of the
  density: 7 for a model of [-1, 1] (VP), 8 for one of [0, 1] (VE). The
  expectation over u bounds the discrete likelihood. The paper averages five
  draws.

  Args:
    process: a continuous process.
    denoiser: the model.
    key: draws u and the probe.
    images: integers k in {0, ..., 255}, `[B, ...]`.
    low, high: the range of the model's data.
    exact: take the exact trace.
    probe: as in `ode_log_likelihood`, as are the rest and the errors.
    t_start: see there.
    tolerances: see there.
  """
  if not jnp.issubdtype(images.dtype, jnp.integer):
    raise ValueError(
      f"ode_bits_per_dim needs images of integers 0 to 255, got {images.dtype}"
    )
  noise_key, probe_key = jax.random.split(key)
  x = (images + jax.random.uniform(noise_key, images.shape)) / 256
  found = ode_log_likelihood(
    process,
    denoiser,
    low + (high - low) * x,
    None if exact else probe_key,
    probe,
    t_start,
    tolerances,
  )
  dims = math.prod(images.shape[1:])
  bits = -found.log_likelihood / (dims * np.log(2)) + 8 - np.log2(high - low)
  trace = "exact trace" if exact else f"Hutchinson, one {probe} probe"
  protocol = (
    f"probability flow ODE from t = {t_start:g}, RK45 rtol {tolerances.rtol:g} "
    f"atol {tolerances.atol:g}, {trace}; uniform dequantisation (k + u) / 256 "
    f"on [{low:g}, {high:g}]"
  )
  return OdeBits(bits, found.latent, found.num_evaluations, protocol)


def _solve(
  rates: Callable[[Array, PyTree], PyTree],
  start: PyTree,
  t: float,
  s: float,
  tolerances: Tolerances,
) -> tuple[PyTree, Array]:
  """The solution at s and the number of evaluations; NaN if it has none."""
  try:
    diffrax = importlib.import_module("diffrax")
  except ImportError as error:
    raise ImportError(
      f"jaxgen.diffusion.ode needs diffrax: pip install 'jaxgen[ode]' ({error})"
    ) from error
  done = diffrax.diffeqsolve(
    diffrax.ODETerm(lambda t, y, args: rates(t, y)),
    diffrax.Dopri5(),
    t,
    s,
    None,
    start,
    stepsize_controller=diffrax.PIDController(tolerances.rtol, tolerances.atol),
    max_steps=tolerances.max_steps,
    throw=False,
  )
  ended = done.result == diffrax.RESULTS.successful
  end = jax.tree.map(lambda y: jnp.where(ended, y[0], jnp.nan), done.ys)
  # Six new stages a step, and the first rate.
  return end, 6 * done.stats["num_steps"] + 1


def _draw_probe(key: Key, x: Array, probe: str) -> Array:
  """Rademacher or Gaussian numbers of x's shape."""
  if probe not in ("rademacher", "gaussian"):
    raise ValueError(f"probe is 'rademacher' or 'gaussian', got {probe!r}")
  normal = normal_like(key, x)
  return normal if probe == "gaussian" else jnp.where(normal < 0, -1.0, 1.0)


def _exact_divergence(
  flow: Callable[[Array], Array], x: Array
) -> tuple[Array, Array]:
  """(flow(x), its divergence `[B]`), one direction of x at a time."""
  change, push = jax.linearize(flow, x)
  shape = x.shape[1:]

  def entry(i):
    basis = jnp.zeros(math.prod(shape), x.dtype).at[i].set(1).reshape(shape)
    direction = jnp.broadcast_to(basis[None], x.shape)
    return _sum_flat(push(direction) * direction)

  return change, jax.lax.map(entry, jnp.arange(math.prod(shape))).sum(0)


def _prior_log_density(process: Process, x: Array) -> Array:
  """log N(x; 0, prior_std^2 I) of each example."""
  std = process.prior_std
  dims = math.prod(x.shape[1:])
  constant = dims * jnp.log(2 * jnp.pi * std**2) / 2
  return -_sum_flat((x / std) ** 2) / 2 - constant


def _sum_flat(x: Array) -> Array:
  """The sum over all axes but the first."""
  return x.reshape(len(x), -1).sum(1)
