"""Attention over the positions of a feature map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.layers import GroupNorm, dense
from jaxgen.types import Array


def single_head(q: Array, k: Array, v: Array) -> Array:
  """softmax(q k^T / sqrt(C)) v over all H x W positions `[B, H, W, C]`.

  One head; the softmax is taken in float32.
  """
  b, h, w, c = q.shape
  rows = (x.reshape(b, h * w, 1, c) for x in (q, k, v))
  return jax.nn.dot_product_attention(*rows).reshape(b, h, w, c)


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
    c = x.shape[-1]
    y = GroupNorm(dtype=self.dtype, name="norm")(x)
    q, k, v = (dense(c, name, dtype=self.dtype)(y) for name in ("q", "k", "v"))
    y = single_head(q, k, v)
    return x + dense(c, "proj_out", init_scale=0.0, dtype=self.dtype)(y)
