"""Score matching: the losses of NCSN and of score SDEs.

With x_t = alpha_t x_0 + sigma_t z the denoising loss of every paper is one
expectation, |sigma_t score + z|^2: sigma_t^2 weights |score + z / sigma_t|^2.
They differ in the times t that they draw, which are the process's, and in the
reduction over dimensions:

  score SDE, VP and sub-VP   t uniform on [1e-5, 1]     mean
  score SDE, VE              t uniform on [1e-5, 1]     sum, halved
  SMLD, NCSN                 t uniform on {1, ..., L}   sum, halved
  DDPM                       t uniform on {1, ..., T}   mean, `simple_loss`
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxgen.diffusion.denoisers import Denoiser
from jaxgen.diffusion.gaussian import normal_like, q_sample
from jaxgen.diffusion.predictions import score_of
from jaxgen.diffusion.processes import DiscreteProcess, Process, marginal
from jaxgen.diffusion.times import random_times
from jaxgen.types import Array, Key

Reduction = Literal["mean", "sum"]


def score_matching_loss(
  process: Process,
  denoiser: Denoiser,
  key: Key,
  x_0: Array,
  t: Array | None = None,
  likelihood_weighting: bool = False,
  reduction: Reduction = "mean",
  eps: float = 1e-5,
) -> Array:
  """E lambda(t) |score(x_t, t) + z / sigma_t|^2 (Song et al. 2021, Eq. 7).

  lambda = sigma_t^2, or g(t)^2 with `likelihood_weighting` (Song et al. 2021b,
  Eq. 7). On a discrete process it is the loss of SMLD (Eq. 1) or DDPM (Eq. 3).

  Args:
    process: the forward process.
    denoiser: the model, of any parameterisation.
    key: draws t and z.
    x_0: `[B, ...]`.
    t: `[]` or `[B]`; random when None.
    likelihood_weighting: weights that make the loss, integrated over t, bound
      the negative log-likelihood; of continuous processes.
    reduction: "mean" over the dimensions, or half their "sum" as the released
      code has it for VE. Both take the mean over the batch.
    eps: the least random t of a continuous process.

  Returns:
    A scalar.

  Raises:
    ValueError: the reduction is unknown, or a discrete process has likelihood
      weights.
  """
  if reduction not in ("mean", "sum"):
    raise ValueError(f"reduction is 'mean' or 'sum', got {reduction!r}")
  t, x_t, z = _draw(process, key, x_0, t, eps)
  gap = z - denoiser(x_t, t).eps
  if likelihood_weighting:
    if not hasattr(process, "diffusion"):
      raise ValueError(
        "likelihood weighting needs a continuous process such as VPSDE, got "
        f"{type(process).__name__}"
      )
    sde: Any = process
    ratio = sde.diffusion(t) / process.sigma(t)
    gap = gap * _as_column(ratio, x_0)
  return _reduced(gap**2, reduction)


def ncsn_loss(
  process: DiscreteProcess,
  denoiser: Denoiser,
  key: Key,
  x_0: Array,
  t: Array | None = None,
) -> Array:
  """1/2 E sigma^2 |score(x~, sigma) + (x~ - x) / sigma^2|^2.

  NCSN (Song & Ermon 2019, Eq. 5 and 6 with lambda = sigma^2), NCSNv2 and SMLD:
  summed over the dimensions, levels drawn uniformly. Arguments and result as in
  `score_matching_loss`; the process is one of `DiscreteProcess.from_sigmas`.
  """
  return score_matching_loss(process, denoiser, key, x_0, t, reduction="sum")


def sliced_score_matching_loss(
  process: Process,
  denoiser: Denoiser,
  key: Key,
  x_0: Array,
  t: Array | None = None,
  num_projections: int = 1,
  eps: float = 1e-5,
) -> Array:
  """E sigma_t^2 (v' (d score / d x) v + |score|^2 / 2), v ~ N(0, I).

  Sliced score matching with the variance reduced form of the second term (Song
  et al. 2019, Eq. 8; NCSN's Eq. 3), at every noise level and weighted as NCSN
  weights them. It needs no z: up to a constant of the data it is the sum of
  `score_matching_loss`.

  Args:
    process: the forward process.
    denoiser: the model.
    key: draws t, x_t and v.
    x_0: `[B, ...]`.
    t: `[]` or `[B]`; random when None.
    num_projections: directions v per example.
    eps: the least random t of a continuous process.

  Returns:
    A scalar, summed over the dimensions.
  """
  if num_projections < 1:
    raise ValueError(
      f"num_projections must be at least 1, got {num_projections}"
    )
  key, slice_key = jax.random.split(key)
  t, x_t, _ = _draw(process, key, x_0, t, eps)
  score_at = lambda x: score_of(process, denoiser(x, t), t)
  score, push = jax.linearize(score_at, x_t)

  def curvature(projection_key):
    v = normal_like(projection_key, x_t)
    return (v * push(v)).reshape(len(x_t), -1).sum(1)

  keys = jax.random.split(slice_key, num_projections)
  trace = jax.lax.map(curvature, keys).mean(0)
  norm = (score**2).reshape(len(x_t), -1).sum(1)
  _, sigma = marginal(process, t, x_t)
  return (sigma.reshape(-1) ** 2 * (trace + norm / 2)).mean()


def _draw(process, key, x_0, t, eps):
  """(t, x_t, z) of one training step."""
  t_key, z_key = jax.random.split(key)
  if t is None:
    t = random_times(process, t_key, x_0.shape[0], eps)
  x_t, z = q_sample(process, z_key, x_0, t)
  return t, x_t, z


def _as_column(a: Array, x: Array) -> Array:
  return jnp.reshape(a, (-1,) + (1,) * (x.ndim - 1))


def _reduced(squares: Array, reduction: str) -> Array:
  if reduction == "mean":
    return squares.mean()
  return squares.reshape(len(squares), -1).sum(1).mean() / 2
