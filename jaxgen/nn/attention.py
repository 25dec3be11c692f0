"""Attention over the positions of a feature map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.layers import GroupNorm, dense
from jaxgen.types import Array


class AttentionBlock(nn.Module):
  """DDPM's residual self-attention: one head over all H x W positions.

  x + proj_out(softmax(q k^T / sqrt(C)) v), with q, k, v = dense(norm(x)). The
  softmax is taken in float32.

  Attributes:
    dtype: of the computation; parameters are float32.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to its own shape."""
    b, h, w, c = x.shape
    y = GroupNorm(dtype=self.dtype, name="norm")(x)
    q, k, v = (
      dense(c, name, dtype=self.dtype)(y).reshape(b, h * w, 1, c)
      for name in ("q", "k", "v")
    )
    y = jax.nn.dot_product_attention(q, k, v).reshape(b, h, w, c)
    return x + dense(c, "proj_out", init_scale=0.0, dtype=self.dtype)(y)
