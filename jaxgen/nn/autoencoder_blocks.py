"""The encoder and decoder of latent diffusion's first stages.

VQGAN's (Esser et al. 2021), which Rombach et al. 2022 use: DDPM's U-Net
without time embedding and without skip connections.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.attention import attention
from jaxgen.nn.convolution import conv
from jaxgen.nn.layers import GroupNorm
from jaxgen.nn.openai_blocks import Conv, fan_in_uniform, linear
from jaxgen.types import Array


class ResBlock(nn.Module):
  """x + conv(swish(norm(conv(swish(norm(x)))))), kernels being 3 x 3.

  Attributes:
    features: output channels; where x has others, a 1 x 1 convolution of it
      takes its place in the sum.
    dtype: of the computation; parameters are float32.
  """

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H, W, features]`."""
    h = nn.swish(GroupNorm(dtype=self.dtype, name="norm1")(x))
    h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
    h = nn.swish(GroupNorm(dtype=self.dtype, name="norm2")(h))
    h = Conv(self.features, dtype=self.dtype, name="conv2")(h)
    if x.shape[-1] != self.features:
      x = linear(x, self.features, "nin_shortcut", dtype=self.dtype)
    return x + h


class AttentionBlock(nn.Module):
  """Residual self-attention: one head over all H x W positions.

  x + proj_out(softmax(q k^T / sqrt(C)) v), with q, k, v = linear(norm(x)). The
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
      linear(y, c, name, dtype=self.dtype).reshape(b, h * w, 1, c)
      for name in ("q", "k", "v")
    )
    y = attention(q, k, v).reshape(b, h, w, c)
    return x + linear(y, c, "proj_out", dtype=self.dtype)


class Downsample(nn.Module):
  """Halves height and width by a strided 3 x 3 convolution.

  A row of zeros lies below and a column to the right, none on the other sides.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """`[B, H, W, C]` -> `[B, H / 2, W / 2, C]`."""
    c = x.shape[-1]
    init = fan_in_uniform(9 * c)
    kernel = self.param("kernel", init, (3, 3, c, c)).astype(self.dtype)
    bias = self.param("bias", init, (c,)).astype(self.dtype)
    y = conv(x.astype(self.dtype), kernel, 2, padding=((0, 1), (0, 1)))
    return y + bias[None, None, None]


class Encoder(nn.Module):
  """Images to features of 2^(levels - 1) times smaller height and width.

  Attributes:
    out_channels: of the features.
    channels: width of the first level.
    channel_mult: width of each level as a multiple of `channels`.
    num_res_blocks: residual blocks per level.
    attention_levels: the levels, from 0, whose blocks attention follows.
    mid_attention: whether attention lies between the two last blocks.
    dtype: of the computation and the output; parameters, normalisation
      statistics and softmax are float32.
    remat: recompute each block's activations in the backward pass.
  """

  out_channels: int
  channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  attention_levels: tuple[int, ...] = ()
  mid_attention: bool = True
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H / f, W / f, out_channels]`."""
    res_block = nn.remat(ResBlock) if self.remat else ResBlock
    attention = nn.remat(AttentionBlock) if self.remat else AttentionBlock
    levels = range(len(self.channel_mult))
    widths = [self.channels * m for m in self.channel_mult]

    h = Conv(self.channels, dtype=self.dtype, name="conv_in")(x)
    for i in levels:
      for j in range(self.num_res_blocks):
        h = res_block(widths[i], self.dtype, name=f"down_{i}_block_{j}")(h)
        if i in self.attention_levels:
          h = attention(self.dtype, name=f"down_{i}_attn_{j}")(h)
      if i != levels[-1]:
        h = Downsample(self.dtype, name=f"down_{i}_downsample")(h)

    h = res_block(widths[-1], self.dtype, name="mid_block_1")(h)
    if self.mid_attention:
      h = attention(self.dtype, name="mid_attn_1")(h)
    h = res_block(widths[-1], self.dtype, name="mid_block_2")(h)

    h = nn.swish(GroupNorm(dtype=self.dtype, name="norm_out")(h))
    return Conv(self.out_channels, dtype=self.dtype, name="conv_out")(h)


class Decoder(nn.Module):
  """Features to images of 2^(levels - 1) times larger height and width.

  Attributes:
    out_channels: of the images.
    channels: width of the last level, that of the images' size.
    channel_mult: width of each level, as the encoder counts them.
    num_res_blocks: residual blocks per level, less one.
    attention_levels: the levels whose blocks attention follows.
    mid_attention: whether attention lies between the two first blocks.
    dtype: of the computation and the output; parameters, normalisation
      statistics and softmax are float32.
    remat: recompute each block's activations in the backward pass.
  """

  out_channels: int
  channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  attention_levels: tuple[int, ...] = ()
  mid_attention: bool = True
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, z: Array, features: bool = False) -> Array:
    """Maps z `[B, h, w, C]` to `[B, f h, f w, out_channels]`, unbounded.

    Args:
      z: the features to decode.
      features: return what the last convolution is applied to instead,
        `[B, f h, f w, channels channel_mult[0]]`.
    """
    res_block = nn.remat(ResBlock) if self.remat else ResBlock
    attention = nn.remat(AttentionBlock) if self.remat else AttentionBlock
    levels = range(len(self.channel_mult))
    widths = [self.channels * m for m in self.channel_mult]

    h = Conv(widths[-1], dtype=self.dtype, name="conv_in")(z)
    h = res_block(widths[-1], self.dtype, name="mid_block_1")(h)
    if self.mid_attention:
      h = attention(self.dtype, name="mid_attn_1")(h)
    h = res_block(widths[-1], self.dtype, name="mid_block_2")(h)

    for i in reversed(levels):
      for j in range(self.num_res_blocks + 1):
        h = res_block(widths[i], self.dtype, name=f"up_{i}_block_{j}")(h)
        if i in self.attention_levels:
          h = attention(self.dtype, name=f"up_{i}_attn_{j}")(h)
      if i != 0:
        name = f"up_{i}_upsample"
        h = Conv(widths[i], upsample=True, dtype=self.dtype, name=name)(h)

    h = nn.swish(GroupNorm(dtype=self.dtype, name="norm_out")(h))
    if features:
      return h
    return Conv(self.out_channels, dtype=self.dtype, name="conv_out")(h)
