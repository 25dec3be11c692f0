"""The Gaussian posterior of a variational autoencoder."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxgen import random
from jaxgen.types import Array, Key


class DiagonalGaussian(NamedTuple):
  """N(mean, exp(logvar) I), one variance per entry.

  Attributes:
    mean: `[B, h, w, C]`.
    logvar: logarithm of the variance, of the same shape.
  """

  mean: Array
  logvar: Array


def from_moments(moments: Array) -> DiagonalGaussian:
  """The posterior that an encoder's output stands for.

  As Rombach et al. 2022's code has it, log variances are clamped to
  [-30, 20]; outside, they have no gradient.

  Args:
    moments: `[B, h, w, 2 C]`, the mean and the log variance.
  """
  mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
  return DiagonalGaussian(mean, jnp.clip(logvar, -30.0, 20.0))


def sample(key: Key, posterior: DiagonalGaussian) -> Array:
  """mean + exp(logvar / 2) z, z ~ N(0, I) (Kingma & Welling 2014, Eq. 10)."""
  z = random.normal(key, posterior.mean.shape)
  return posterior.mean + jnp.exp(0.5 * posterior.logvar) * z


def mode(posterior: DiagonalGaussian) -> Array:
  """The most probable latent: the mean, `[B, h, w, C]`."""
  return posterior.mean


def kl(posterior: DiagonalGaussian) -> Array:
  """KL(posterior || N(0, I)) in nats (Kingma & Welling 2014, App. B).

      1/2 sum (mean^2 + exp(logvar) - 1 - logvar)

  Args:
    posterior: the distribution.

  Returns:
    `[B]`, sums over all entries of an example.
  """
  mean, logvar = posterior
  terms = jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar
  return 0.5 * terms.sum(tuple(range(1, terms.ndim)))
