"""Batch normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.layers import Initializer
from jaxgen.types import Array


class BatchNorm(nn.Module):
  """Batch normalisation (Ioffe & Szegedy 2015) with PyTorch's conventions.

  y = (x - mean) / sqrt(var + 1e-5) * scale + bias. In training, mean and
  variance are the batch's, and the stored ones move a tenth of the way towards
  them, the variance's estimate being the unbiased one. Statistics are float32.

  Attributes:
    scale_init: of the scales.
    dtype: of the output.
  """

  scale_init: Initializer = nn.initializers.ones
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Normalises the channels of x `[B, H, W, C]`.

    Args:
      x: the features.
      train: use the batch's statistics and, where "batch_stats" is mutable,
        store them; else use the stored ones.
    """
    shape = (x.shape[-1],)
    scale = self.param("scale", self.scale_init, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    var = self.variable("batch_stats", "var", jnp.ones, shape)
    x = x.astype(jnp.float32)
    if train:
      axes, n = (0, 1, 2), x[..., 0].size
      batch_mean, batch_var = x.mean(axes), x.var(axes)
      if not self.is_initializing() and self.is_mutable_collection(
        "batch_stats"
      ):
        unbiased = batch_var * (n / max(n - 1, 1))
        mean.value += 0.1 * (jax.lax.stop_gradient(batch_mean) - mean.value)
        var.value += 0.1 * (jax.lax.stop_gradient(unbiased) - var.value)
    else:
      batch_mean, batch_var = mean.value, var.value
    factor = scale * jax.lax.rsqrt(batch_var + 1e-5)
    shift = bias - batch_mean * factor
    wide = lambda vector: vector[None, None, None]
    return (x * wide(factor) + wide(shift)).astype(self.dtype)
