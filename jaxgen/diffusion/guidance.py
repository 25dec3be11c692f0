"""Guidance: conditions that push the estimate, as functions of denoisers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.diffusion.denoisers import Denoiser
from jaxgen.diffusion.predictions import from_eps
from jaxgen.diffusion.processes import Process, marginal
from jaxgen.types import Array, Network, PyTree

# (x_t [B, ...], t [B]) -> log p(y | x_t) [B]
LogProb = Callable[[Array, Array], Array]


def classifier_free(
  process: Process,
  conditional: Denoiser,
  unconditional: Denoiser,
  scale: float,
) -> Denoiser:
  """eps = eps_uncond + scale (eps_cond - eps_uncond) (Ho & Salimans 2022).

  scale is that of Stable Diffusion and Imagen: 0 is unconditional, 1
  conditional, and w of the paper's Eq. 6 is scale - 1. A learned variance is
  the conditional one. `guided_network` needs one call of the network instead
  of two.
  """

  def denoiser(x_t: Array, t: Array):
    with_condition = conditional(x_t, t)
    without = unconditional(x_t, t).eps
    eps = without + scale * (with_condition.eps - without)
    guided = from_eps(process, x_t, t, eps)
    return guided._replace(
      v=with_condition.v, log_variance=with_condition.log_variance
    )

  return denoiser


def guided_network(
  network: Callable[[Array, Array, PyTree], Array],
  condition: PyTree,
  no_condition: PyTree,
  scale: float,
) -> Network:
  """Classifier-free guidance in one call of the network on a double batch.

  At given x_t every parameterisation is linear in eps, so that outputs mix as
  eps does: the result is a network of the same parameterisation. Learned
  variances, which do not, need `classifier_free`.

  Args:
    network: (x `[2 B, ...]`, t `[2 B]`, condition of 2 B examples) -> output.
    condition: arrays with leading axis B, such as a text's embedding.
    no_condition: of the same shapes, for the empty condition; that of another
      text makes it a negative prompt.
    scale: as in `classifier_free`.

  Raises:
    ValueError: the shapes differ.
  """
  shapes = [jax.tree.map(jnp.shape, c) for c in (condition, no_condition)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      "guided_network needs condition and no_condition of the same shapes, got "
      f"{shapes[0]} and {shapes[1]}"
    )
  both = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b]), condition, no_condition
  )

  def guided(x_t: Array, t: Array) -> Array:
    twice = lambda a: jnp.concatenate([a, a])
    output = network(twice(x_t), twice(t), both)
    with_condition, without = jnp.split(output, 2)
    return without + scale * (with_condition - without)

  return guided


def classifier_guided(
  process: Process, denoiser: Denoiser, log_prob: LogProb, scale: float
) -> Denoiser:
  """eps - sigma_t scale grad log p(y | x_t) (Dhariwal & Nichol 2021, Alg. 2).

  The score of p(x_t) p(y | x_t)^scale, for every sampler. ADM's Algorithm 1,
  which moves the mean of an ancestral step, is `ancestral(..., gradient=)`.

  Args:
    process: the forward process.
    denoiser: the model.
    log_prob: of a classifier of x_t.
    scale: of its gradient.
  """
  gradient = log_prob_gradient(log_prob, scale)

  def guided(x_t: Array, t: Array):
    prediction = denoiser(x_t, t)
    _, sigma = marginal(process, t, x_t)
    eps = prediction.eps - sigma * gradient(x_t, t)
    moved = from_eps(process, x_t, t, eps)
    return prediction._replace(x_0=moved.x_0, eps=moved.eps)

  return guided


def log_prob_gradient(
  log_prob: LogProb, scale: float
) -> Callable[[Array, Array], Array]:
  """(x_t, t) -> scale grad log p(y | x_t), of x_t's shape."""

  def gradient(x_t: Array, t: Array) -> Array:
    t = jnp.broadcast_to(t, x_t.shape[:1])
    return scale * jax.grad(lambda x: log_prob(x, t).sum())(x_t)

  return gradient
