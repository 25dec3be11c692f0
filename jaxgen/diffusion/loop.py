"""The one loop: a sampler scanned over a grid of times."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import random
from jaxgen.diffusion.samplers import Sampler
from jaxgen.diffusion.times import check_times
from jaxgen.types import Array, Key


def sample(
  key: Key, x: Array, times: Array | np.ndarray, sampler: Sampler
) -> Array:
  """The last x of a sampler run from `x` at times[0] to times[-1].

  One `lax.scan`: a single compiled program under jit, whatever the number of
  steps.

  Args:
    key: one key, or a batch of keys `[B]`, one per example, which makes each
      example independent of the batch it is drawn in.
    x: the start point `[B, ...]`, as a rule `prior(process, key, shape)`.
    times: strictly monotone `[n + 1]`.
    sampler: the method.

  Returns:
    x at times[-1], of x's shape.
  """
  last, _ = _scan(key, x, times, sampler, keep=False)
  return last


def trajectory(
  key: Key, x: Array, times: Array | np.ndarray, sampler: Sampler
) -> Array:
  """Like `sample`, but every x: `[n + 1, B, ...]`, the start point first."""
  _, later = _scan(key, x, times, sampler, keep=True)
  return jnp.concatenate([x[None], later])


def _scan(key, x, times, sampler, keep):
  times = check_times(times, sampler.T)
  n = len(times) - 1

  def body(carry, step):
    x_t, memory = carry
    step_key, t, s = step
    x_s, memory = sampler.step(step_key, x_t, t, s, memory)
    x_s = x_s.astype(x_t.dtype)
    return (x_s, memory), (x_s if keep else None)

  steps = (_step_keys(key, n), times[:-1], times[1:])
  (last, _), kept = jax.lax.scan(body, (x, sampler.init(x)), steps)
  return last, kept


def _step_keys(key: Key, n: int) -> Key:
  """A key for each step: `[n]`, of a batch of keys `[n, B]`."""
  if random.is_batch(key):
    return jax.vmap(_step_keys, (0, None), 1)(key, n)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
