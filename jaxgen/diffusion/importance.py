"""Importance sampling of t for the variational bound.

Improved DDPM, section 3.3: t is drawn with p_t proportional to
sqrt(E[L_t^2]), E over the last 10 losses of each t, and L_t weighted by
1 / p_t. The history is a pytree beside the parameters:

    t, weights = draw(history, key, n)
    losses = vlb_losses(process, denoiser, key, x_0, variance, t)
    loss = (weights * losses).mean()
    history = update(history, t, losses)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Key

KEPT = 10
UNIFORM = 0.001  # the share of t's drawn uniformly, as released


class LossHistory(NamedTuple):
  """The last losses of each t.

  Attributes:
    losses: float32 `[T, 10]`, the oldest first.
    counts: int32 `[T]`, how many of them there are.
  """

  losses: Array
  counts: Array


def no_history(T: int) -> LossHistory:
  """Before the first step; t is drawn uniformly until each has 10 losses."""
  return LossHistory(
    jnp.zeros((T, KEPT), jnp.float32), jnp.zeros((T,), jnp.int32)
  )


def probabilities(history: LossHistory) -> Array:
  """p_t for t = 1, ..., T, `[T]`."""
  T = len(history.counts)
  root = jnp.sqrt(jnp.mean(history.losses**2, axis=1))
  p = root / jnp.maximum(root.sum(), 1e-30)
  p = (1 - UNIFORM) * p + UNIFORM / T
  return jnp.where((history.counts == KEPT).all(), p, 1 / T)


def draw(history: LossHistory, key: Key, n: int) -> tuple[Array, Array]:
  """n times t ~ p_t and the weights 1 / (T p_t), both `[n]`.

  The mean of weights times losses is an unbiased estimate of the mean over
  uniform t.
  """
  p = probabilities(history)
  index = jax.random.choice(key, len(p), (n,), p=p)
  return index + 1, 1 / (len(p) * p[index])


def update(history: LossHistory, t: Array, losses: Array) -> LossHistory:
  """The history after losses `[n]` at times t `[n]`, unweighted, in order.

  Under `jax.pmap` or `jax.shard_map`, gather t and losses from all devices
  first, so that the history stays the same on each; under jit on a mesh they
  are global already.
  """
  losses = jax.lax.stop_gradient(losses).astype(jnp.float32)

  def add(history, pair):
    i, loss = pair[0] - 1, pair[1]
    row, count = history.losses[i], history.counts[i]
    full = count == KEPT
    row = jnp.where(full, jnp.roll(row, -1), row)
    row = row.at[jnp.where(full, KEPT - 1, count)].set(loss)
    return LossHistory(
      history.losses.at[i].set(row),
      history.counts.at[i].set(jnp.minimum(count + 1, KEPT)),
    ), None

  return jax.lax.scan(add, history, (t, losses))[0]
