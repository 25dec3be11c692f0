"""Training losses: one draw of t and eps per example, averaged over the batch.

Dropping the weight of the variational bound gives one simple loss for each
target. At the same x_t they differ by a factor (snr = alpha_t^2 / sigma_t^2):

  eps-MSE      = snr * x_0-MSE
  velocity-MSE = (1 + snr) * x_0-MSE       (variance preserving processes)
  mean-MSE     = c_1^2 * x_0-MSE           (c_1 of DDPM Eq. 7)

Every loss takes the network's output as it is; the step's randomness is in
`key`, and t may be given to look at one noise level.
"""

import jax
import jax.numpy as jnp

from jaxgen.diffusion.denoisers import (
  Denoiser,
  call,
  learned_range_denoiser,
)
from jaxgen.diffusion.gaussian import posterior, q_sample
from jaxgen.diffusion.likelihood import vlb_term
from jaxgen.diffusion.predictions import Prediction, velocity_of
from jaxgen.diffusion.processes import DiscreteProcess, Process
from jaxgen.diffusion.reverse import FIXED_SMALL
from jaxgen.diffusion.times import random_times
from jaxgen.types import Array, Key, Network


def simple_loss(
  process: Process,
  network: Network,
  key: Key,
  x_0: Array,
  t: Array | None = None,
) -> Array:
  """L_simple = E |eps - eps_theta(x_t, t)|^2 (DDPM Eq. 14).

  The mean over all dimensions and the batch.

  Args:
    process: the forward process.
    network: predicts eps.
    key: draws t and eps.
    x_0: `[B, ...]`.
    t: `[]` or `[B]`; random when None.

  Returns:
    A scalar.
  """
  t, x_t, eps = _draw(process, key, x_0, t)
  return _mse(call(network, x_t, t), eps)


def x_0_loss(
  process: Process,
  network: Network,
  key: Key,
  x_0: Array,
  t: Array | None = None,
) -> Array:
  """E |x_0 - x_theta(x_t, t)|^2: the simple loss of the x_0 target.

  Arguments and result as in `simple_loss`; the network predicts x_0.
  """
  t, x_t, _ = _draw(process, key, x_0, t)
  return _mse(call(network, x_t, t), x_0)


def velocity_loss(
  process: Process,
  network: Network,
  key: Key,
  x_0: Array,
  t: Array | None = None,
) -> Array:
  """E |v - v_theta(x_t, t)|^2, v = alpha_t eps - sigma_t x_0.

  Salimans & Ho 2022, section 4. Arguments and result as in `simple_loss`.
  """
  t, x_t, eps = _draw(process, key, x_0, t)
  target = velocity_of(process, Prediction(x_0, eps), t)
  return _mse(call(network, x_t, t), target)


def mean_loss(
  process: DiscreteProcess,
  network: Network,
  key: Key,
  x_0: Array,
  t: Array | None = None,
) -> Array:
  """E |mu-tilde_t(x_t, x_0) - mu_theta(x_t, t)|^2 (DDPM Eq. 8 unweighted).

  The objective of DDPM's Table 2 that predicts the posterior mean of x_{t-1}.
  Arguments and result as in `simple_loss`.
  """
  t, x_t, _ = _draw(process, key, x_0, t)
  target, _ = posterior(process, x_t, x_0, t, t - 1)
  return _mse(call(network, x_t, t), target)


def vlb_losses(
  process: DiscreteProcess,
  denoiser: Denoiser,
  key: Key,
  x_0: Array,
  variance: float = FIXED_SMALL,
  t: Array | None = None,
) -> Array:
  """T L_{t-1} of each example, in bits/dim, `[B]`.

  Their mean over uniform t is the variational bound, DDPM Eq. 5 without its
  constant L_T: KL terms for t > 1 and the discretised decoder's
  -log p(x_0 | x_1) at t = 1 (Eq. 13).

  Args:
    process: the forward process.
    denoiser: the model, of any parameterisation, with or without a learned
      variance.
    key: draws t and eps.
    x_0: `[B, ...]` in [-1, 1].
    variance: as in `p_mean_variance`.
    t: `[]` or `[B]`; random when None.
  """
  t, x_t, _ = _draw(process, key, x_0, t)
  return process.T * vlb_term(
    process, denoiser(x_t, t), x_0, x_t, t, t - 1, variance
  )


def vlb_loss(
  process: DiscreteProcess,
  denoiser: Denoiser,
  key: Key,
  x_0: Array,
  variance: float = FIXED_SMALL,
  t: Array | None = None,
) -> Array:
  """The mean of `vlb_losses`: an estimate of the bound of DDPM Eq. 5."""
  return vlb_losses(process, denoiser, key, x_0, variance, t).mean()


def hybrid_loss(
  process: DiscreteProcess,
  network: Network,
  key: Key,
  x_0: Array,
  weight: float = 0.001,
  t: Array | None = None,
) -> Array:
  """L_hybrid = L_simple + lambda L_vlb (Nichol & Dhariwal 2021, Eq. 16).

  The bound teaches the variance alone: no gradient flows from it to eps. Its
  mean over t instead of the sum over t, as in the released "plain" loss of
  their larger models and of ADM, is weight = 1 / T.

  Args:
    process: the forward process.
    network: predicts eps and v, see `learned_range_denoiser`.
    key: draws t and eps.
    x_0: `[B, ...]` in [-1, 1].
    weight: lambda.
    t: `[]` or `[B]`; random when None.

  Returns:
    A scalar.
  """
  t, x_t, eps = _draw(process, key, x_0, t)
  prediction = learned_range_denoiser(process, network)(x_t, t)
  frozen = jax.lax.stop_gradient(prediction)._replace(v=prediction.v)
  bound = process.T * vlb_term(process, frozen, x_0, x_t, t, t - 1).mean()
  return _mse(prediction.eps, eps) + weight * bound


def _draw(process, key, x_0, t):
  """(t, x_t, eps) of one training step."""
  t_key, eps_key = jax.random.split(key)
  if t is None:
    t = random_times(process, t_key, x_0.shape[0])
  x_t, eps = q_sample(process, eps_key, x_0, t)
  return t, x_t, eps


def _mse(output: Array, target: Array) -> Array:
  if output.shape != target.shape:
    raise ValueError(
      f"the network's output must have the target's shape {target.shape}, got "
      f"{output.shape}"
    )
  return jnp.mean((target - output.astype(target.dtype)) ** 2)
