"""The text encoder of latent diffusion's text-to-image models.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models", App. E.2.1: an unmasked transformer over BERT's word pieces, trained
together with the denoising network.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.attention import attention
from jaxgen.nn.clip_text import check_tokens, layer_norm
from jaxgen.nn.layers import Dense, gelu
from jaxgen.nn.openai_blocks import fan_in_uniform
from jaxgen.types import Array


class BertBlock(nn.Module):
  """Self-attention, then two dense layers; both residual.

  x + attention(LN(x)), then x + fc2(gelu(fc1(LN(x)))). The heads together may
  be narrower than x, and q, k, v have no bias.

  Attributes:
    num_heads: heads of the attention.
    head_dim: channels of each.
    dtype: of the computation; parameters are float32.
  """

  num_heads: int = 8
  head_dim: int = 64
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, N, width]` to its own shape."""
    b, n, width = x.shape
    y = layer_norm("norm1", self.dtype)(x)
    q, k, v = (
      self._dense(y, self.num_heads * self.head_dim, name, use_bias=False)
      for name in ("q", "k", "v")
    )
    shape = (b, n, self.num_heads, self.head_dim)
    y = attention(*(z.reshape(shape) for z in (q, k, v)))
    x = x + self._dense(y.reshape(b, n, -1), width, "proj_out")

    y = layer_norm("norm2", self.dtype)(x)
    y = gelu(self._dense(y, 4 * width, "fc1"))
    return x + self._dense(y, width, "fc2")

  def _dense(
    self, x: Array, features: int, name: str, use_bias: bool = True
  ) -> Array:
    """A dense layer, initialised as PyTorch does."""
    init = fan_in_uniform(x.shape[-1])
    layer = Dense(
      features,
      use_bias,
      self.dtype,
      kernel_init=init,
      bias_init=init,
      name=name,
    )
    return layer(x)


class LdmBert(nn.Module):
  """Latent diffusion's text encoder; the defaults are the 1.4B model's.

  Padding is not masked: the network was trained to see it.

  Attributes:
    vocab_size: tokens.
    width: channels.
    num_layers: blocks.
    num_heads: heads of the attention.
    head_dim: channels of each.
    max_length: positions.
    dtype: of attention and dense layers. Parameters, normalisation statistics,
      softmax and the output are float32.
    remat: recompute each block's activations in the backward pass.
  """

  vocab_size: int = 30_522
  width: int = 1280
  num_layers: int = 32
  num_heads: int = 8
  head_dim: int = 64
  max_length: int = 77
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, tokens: Array) -> Array:
    """`[B, N, width]` of tokens `[B, N]`, integers, with N <= `max_length`.

    Raises:
      ValueError: if the tokens have another shape or type or are too many.
    """
    check_tokens(tokens, self.max_length, "LdmBert")
    normal = nn.initializers.normal(0.02)
    embed = nn.Embed(
      self.vocab_size, self.width, embedding_init=normal, name="token_embedding"
    )
    positions = self.param(
      "position_embedding", normal, (self.max_length, self.width)
    )
    x = embed(tokens) + positions[None, : tokens.shape[1]]
    x = x.astype(self.dtype)
    module = nn.remat(BertBlock) if self.remat else BertBlock
    for i in range(self.num_layers):
      x = module(self.num_heads, self.head_dim, self.dtype, name=f"block_{i}")(
        x
      )
    return layer_norm("norm_out")(x)


# Of the released models txt2img-f8-large, whose 1.45 billion parameters
# (Rombach et al. 2022, Table 15) count the denoising network, this one and its
# unused head; and text2img256.
LDM_BERTS = {
  "txt2img_f8_large": LdmBert(),
  "text2img256": LdmBert(width=640),
}
