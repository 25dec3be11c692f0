"""The transformer that latent diffusion puts in place of self-attention.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models", section 3.3 and App. E: the positions of a feature map attend to
each other, and to a condition.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.attention import attention
from jaxgen.nn.layers import GroupNorm, gelu
from jaxgen.nn.openai_blocks import linear
from jaxgen.types import Array


class CrossAttention(nn.Module):
  """Latent diffusion's attention: queries of x, keys and values of a context.

  The paper's section 3.3, Q = W_Q x, K = W_K context, V = W_V context; none of
  the three has a bias, the projection of their result has.

  Attributes:
    num_heads: heads.
    query_chunk: see `attention`.
    flash: see `attention`.
    dtype: of the computation; parameters are float32.
  """

  num_heads: int
  query_chunk: int | None = None
  flash: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: Array | None = None) -> Array:
    """Maps x `[B, T, C]` to its own shape.

    Args:
      x: what attends.
      context: `[B, S, D]`, what is attended to; if None, x.

    Raises:
      ValueError: if the heads do not divide the channels.
    """
    b, t, c = x.shape
    if c % self.num_heads:
      raise ValueError(
        f"CrossAttention needs channels divisible by its {self.num_heads} "
        f"heads, got {c}."
      )
    context = x if context is None else context
    project = partial(linear, features=c, use_bias=False, dtype=self.dtype)
    q, k, v = (
      project(y, name=name).reshape(b, y.shape[1], self.num_heads, -1)
      for name, y in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    y = attention(
      q, k, v, query_chunk=self.query_chunk, flash=self.flash
    ).reshape(b, t, c)
    return linear(y, c, "to_out", dtype=self.dtype)


class TransformerBlock(nn.Module):
  """Self-attention, cross-attention and a gated MLP, each of them residual.

  x + f(LayerNorm(x)) for each f. The MLP is Shazeer 2020's GEGLU, four times
  as wide as x: W_2 (a * gelu(b)), [a, b] = W_1 x, with the exact gelu.

  Attributes:
    num_heads: heads of both attentions.
    query_chunk: see `attention`.
    flash: see `attention`.
    dtype: of the computation; parameters are float32.
  """

  num_heads: int
  query_chunk: int | None = None
  flash: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: Array | None = None) -> Array:
    """Maps x `[B, T, C]` to its own shape, seeing a context `[B, S, D]`."""
    c = x.shape[-1]
    attend = partial(
      CrossAttention, self.num_heads, self.query_chunk, self.flash, self.dtype
    )
    norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
    x = x + attend(name="attn1")(norm(name="norm1")(x))
    x = x + attend(name="attn2")(norm(name="norm2")(x), context)
    y = norm(name="norm3")(x)
    y, gate = jnp.split(linear(y, 8 * c, "ff_in", dtype=self.dtype), 2, -1)
    y = y * gelu(gate)
    return x + linear(y, c, "ff_out", dtype=self.dtype)


class SpatialTransformer(nn.Module):
  """Transformer blocks over all H x W positions of a feature map, residual.

  Attributes:
    num_heads: heads.
    depth: how many blocks.
    query_chunk: see `attention`.
    flash: see `attention`.
    dtype: of the computation; parameters and statistics are float32.
  """

  num_heads: int
  depth: int = 1
  query_chunk: int | None = None
  flash: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: Array | None = None) -> Array:
    """Maps x `[B, H, W, C]` to its own shape.

    Args:
      x: the feature map.
      context: `[B, S, D]`, of any S; without one, the cross-attentions are
        self-attentions.
    """
    b, h, w, c = x.shape
    y = GroupNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
    y = linear(y.reshape(b, h * w, c), c, "proj_in", dtype=self.dtype)
    options = (self.num_heads, self.query_chunk, self.flash, self.dtype)
    for i in range(self.depth):
      y = TransformerBlock(*options, name=f"block_{i}")(y, context)
    y = linear(y, c, "proj_out", zero=True, dtype=self.dtype)
    return x + y.reshape(b, h, w, c)
