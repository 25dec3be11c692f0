"""Denoisers: callables (x_t, t) -> Prediction, made from a network.

A network is `(x_t [B, ...], t [B]) -> array`, closed over its parameters and
conditioning. It receives the process's own t; what a published network expects
instead (t - 1 for DDPM's, 999 t for score-SDE's) is written where the network
is closed over:

  network = lambda x, t: unet.apply({"params": params}, x, t - 1)
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxgen.diffusion.predictions import (
  Prediction,
  from_eps,
  from_mean,
  from_score,
  from_velocity,
  from_x_0,
)
from jaxgen.diffusion.processes import Process
from jaxgen.types import Array, Network

# (x_t [B, ...], t [] or [B]) -> Prediction
Denoiser = Callable[[Array, Array], Prediction]


def eps_denoiser(process: Process, network: Network) -> Denoiser:
  """The denoiser of a network that predicts eps (DDPM)."""
  return lambda x, t: from_eps(process, x, t, call(network, x, t))


def x_0_denoiser(process: Process, network: Network) -> Denoiser:
  """The denoiser of a network that predicts x_0."""
  return lambda x, t: from_x_0(process, x, t, call(network, x, t))


def velocity_denoiser(process: Process, network: Network) -> Denoiser:
  """The denoiser of a network that predicts alpha_t eps - sigma_t x_0."""
  return lambda x, t: from_velocity(process, x, t, call(network, x, t))


def score_denoiser(process: Process, network: Network) -> Denoiser:
  """The denoiser of a network that predicts grad log q(x_t)."""
  return lambda x, t: from_score(process, x, t, call(network, x, t))


def mean_denoiser(process: Process, network: Network) -> Denoiser:
  """The denoiser of a network that predicts DDPM's mu-tilde (its Table 2)."""
  return lambda x, t: from_mean(process, x, t, call(network, x, t))


def learned_range_denoiser(process: Process, network: Network) -> Denoiser:
  """The denoiser of a network that predicts eps and improved DDPM's v.

  The output has twice x's channels: eps, and a number that maps from [-1, 1]
  to v in [0, 1] (Nichol & Dhariwal 2021, Eq. 15). It is not clipped.
  """

  def denoiser(x_t: Array, t: Array) -> Prediction:
    eps, v = _halves(call(network, x_t, t), x_t)
    return from_eps(process, x_t, t, eps)._replace(v=(v + 1) / 2)

  return denoiser


def learned_variance_denoiser(process: Process, network: Network) -> Denoiser:
  """The denoiser of a network that predicts eps and the log-variance.

  The output has twice x's channels. The variance is that of x_{t-1}: it fits no
  other step (Nichol & Dhariwal 2021, "learned").
  """

  def denoiser(x_t: Array, t: Array) -> Prediction:
    eps, log_variance = _halves(call(network, x_t, t), x_t)
    prediction = from_eps(process, x_t, t, eps)
    return prediction._replace(log_variance=log_variance)

  return denoiser


def clip_x_0(
  process: Process, denoiser: Denoiser, low: float = -1.0, high: float = 1.0
) -> Denoiser:
  """Clips the estimate of x_0, and re-derives eps from it.

  DDPM's samplers clip to the range of the data; latent models do not. Since
  eps follows x_0, DDIM with it is OpenAI's; the DDIM paper's own code does not
  clip.
  """
  if not low < high:
    raise ValueError(f"clip_x_0 needs low < high, got [{low}, {high}]")

  def clipped(x_t: Array, t: Array) -> Prediction:
    prediction = denoiser(x_t, t)
    x_0 = jnp.clip(prediction.x_0, low, high)
    eps = from_x_0(process, x_t, t, x_0).eps
    return prediction._replace(x_0=x_0, eps=eps)

  return clipped


def _halves(output: Array, x_t: Array) -> tuple[Array, Array]:
  wanted = (*x_t.shape[:-1], 2 * x_t.shape[-1])
  if output.shape != wanted:
    raise ValueError(
      f"a network with learned variance has output {wanted} for x_t "
      f"{x_t.shape}, got {output.shape}"
    )
  first, second = jnp.split(output, 2, axis=-1)
  return first, second


def call(network: Network, x_t: Array, t: Array) -> Array:
  """The network's output at x_t, with a scalar t repeated to [B]."""
  return network(x_t, jnp.broadcast_to(t, x_t.shape[:1]))
