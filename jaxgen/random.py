"""jax.random's numbers, bit for bit, drawn several times faster on CPUs.

JAX's counter-based generator there runs its rounds as a loop over arrays in
memory; written out, they fuse into one pass in vector registers. The numbers
stay those of `jax.random`, which every other backend, generator and dtype
goes to.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxgen.types import Array, Key

# Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Threefry
# 2x32: the rotations of Table 2 and the parity constant of Skein.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def normal(
  key: Key, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Array:
  """Standard normal numbers: those of `jax.random.normal`.

  Args:
    key: one key, or a batch of keys `[B]`.
    shape: of the numbers of one key.
    dtype: a floating point type.

  Returns:
    `shape`, or `[B, *shape]`.
  """
  shape = tuple(shape)
  if not _is_written_out(key, shape) or dtype != jnp.float32:
    draw = lambda k: jax.random.normal(k, shape, dtype)
    return jax.vmap(draw)(key) if is_batch(key) else draw(key)
  low = np.nextafter(np.float32(-1), np.float32(0))
  u = _unit(key, shape) * (np.float32(1) - low) + low
  u = jnp.maximum(low, u)
  # No square is 2 modulo 4, but XLA cannot tell. It would otherwise fuse the
  # bits into erf_inv and compute them anew wherever that uses them.
  words = jax.random.key_data(key)
  always = jnp.all(words * words & np.uint32(2) == 0)
  z = jax.lax.cond(always, jax.lax.erf_inv, lambda u: u, u)
  return np.float32(np.sqrt(2)) * z


def bernoulli(key: Key, p: float, shape: Sequence[int]) -> Array:
  """True with probability p: the values of `jax.random.bernoulli`."""
  shape = tuple(shape)
  if not _is_written_out(key, shape):
    return jax.random.bernoulli(key, p, shape)
  return _unit(key, shape) < p


def fold_in(key: Key, data: int | Array) -> Key:
  """`jax.random.fold_in`, of one key or of each of a batch of keys."""
  if is_batch(key):
    return jax.vmap(jax.random.fold_in, (0, None))(key, data)
  return jax.random.fold_in(key, data)


def image_keys(key: Key, start: int | Array, n: int) -> Key:
  """Keys of images start, ..., start + n - 1: `[n]`.

  Image i's key is fold_in(key, i), and all its noise follows from it where a
  function takes a batch of keys: the image is the same in every batch and on
  any number of devices.
  """
  return jax.vmap(jax.random.fold_in, (None, 0))(key, start + jnp.arange(n))


def is_batch(key: Key) -> bool:
  """Whether this is a batch of keys `[B]`, not one."""
  return jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 1


def _is_written_out(key: Key, shape: tuple[int, ...]) -> bool:
  return (
    jax.default_backend() == "cpu"
    and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    and str(jax.random.key_impl(key)) == "threefry2x32"
    and 0 < key.size * math.prod(shape) < 2**32
  )


def _unit(key: Key, shape: tuple[int, ...]) -> Array:
  """Uniform on [0, 1): 23 random bits as the fraction of a float in [1, 2)."""
  words = jax.random.key_data(key)
  counter = jax.lax.broadcasted_iota(
    jnp.uint32, (*key.shape, math.prod(shape)), key.ndim
  )
  a, b = _threefry(words[..., :1], words[..., 1:], counter)
  bits = ((a ^ b) >> np.uint32(9)) | np.uint32(0x3F800000)
  floats = jax.lax.bitcast_convert_type(bits, jnp.float32) - np.float32(1)
  return floats.reshape(key.shape + shape)


def _threefry(k_0: Array, k_1: Array, counter: Array) -> tuple[Array, Array]:
  """Threefry 2x32 with 20 rounds of (0, counter) under the key (k_0, k_1)."""
  keys = (k_0, k_1, k_0 ^ k_1 ^ _PARITY)
  x_0, x_1 = jnp.broadcast_arrays(k_0, counter + k_1)
  for i in range(5):
    for r in _ROTATIONS[i % 2]:
      x_0 = x_0 + x_1
      x_1 = x_0 ^ ((x_1 << np.uint32(r)) | (x_1 >> np.uint32(32 - r)))
    x_0 = x_0 + keys[(i + 1) % 3]
    x_1 = x_1 + keys[(i + 2) % 3] + np.uint32(i + 1)
  return x_0, x_1
