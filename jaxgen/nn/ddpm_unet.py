"""The U-Net of DDPM (Ho et al. 2020, App. B), also used by DDIM."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.attention import AttentionBlock
from jaxgen.nn.embeddings import sinusoidal_embedding
from jaxgen.nn.layers import (
  Conv,
  Dropout,
  GroupNorm,
  dense,
  depth_to_space,
  space_to_depth,
)
from jaxgen.types import Array


class ResBlock(nn.Module):
  """Two normalised 3 x 3 convolutions with the time added between them.

  Attributes:
    features: output channels.
    dropout: rate before the second convolution.
    dtype: of the computation; parameters are float32.
  """

  features: int
  dropout: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, temb: Array, deterministic: bool) -> Array:
    """Maps x `[B, H, W, C]` and temb `[B, D]` to `[B, H, W, features]`."""
    y = nn.swish(GroupNorm(dtype=self.dtype, name="norm1")(x))
    y = Conv(self.features, dtype=self.dtype, name="conv1")(y)
    shift = dense(self.features, "temb_proj", dtype=self.dtype)(nn.swish(temb))
    y = y + shift[:, None, None]
    y = nn.swish(GroupNorm(dtype=self.dtype, name="norm2")(y))
    y = Dropout(self.dropout)(y, deterministic)
    y = Conv(self.features, init_scale=0.0, dtype=self.dtype, name="conv2")(y)
    if x.shape[-1] != self.features:
      x = dense(self.features, "nin_shortcut", dtype=self.dtype)(x)
    return x + y


class Downsample(nn.Module):
  """Halves height and width by a strided 3 x 3 convolution."""

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """`[B, H, W, C]` -> `[B, H / 2, W / 2, C]`."""
    return Conv(x.shape[-1], stride=2, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
  """Doubles height and width: nearest neighbour, then a 3 x 3 convolution."""

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """`[B, H, W, C]` -> `[B, 2 H, 2 W, C]`."""
    return Conv(x.shape[-1], upsample=True, dtype=self.dtype, name="conv")(x)


class UNet(nn.Module):
  """DDPM's U-Net; the defaults are its CIFAR-10 network.

  Attributes:
    channels: width of the first level.
    channel_mult: width of each level as a multiple of `channels`.
    num_res_blocks: residual blocks per level; one more on the way up.
    attention_resolutions: heights of the feature maps that have attention.
    dropout: rate inside the residual blocks.
    out_channels: channels of the output.
    patch_size: pixels per side of the patches that are folded into channels
      before the network and unfolded after it; 1 is the paper's network.
      Attention resolutions count patches.
    dtype: of the computation. Parameters, normalisation statistics, softmax
      and the output are float32.
    remat: recompute each block's activations in the backward pass.
  """

  channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 2, 2)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (16,)
  dropout: float = 0.1
  out_channels: int = 3
  patch_size: int = 1
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: Array, t: Array, deterministic: bool = True) -> Array:
    """The network's output for x at timestep t.

    Args:
      x: `[B, H, W, C]`.
      t: `[B]` or `[]`, as the published networks expect it: 0, ..., T - 1,
        of any integer or floating type.
      deterministic: no dropout; if False, an rng named 'dropout' is needed.

    Returns:
      `[B, H, W, out_channels]`, float32.

    Raises:
      ValueError: if the height or width does not divide, or an attention
        resolution does not occur.
    """
    self._check(x, t)
    res_block = nn.remat(ResBlock, static_argnums=3) if self.remat else ResBlock
    attention = nn.remat(AttentionBlock) if self.remat else AttentionBlock

    def block(h, level, name):
      features = self.channels * self.channel_mult[level]
      module = res_block(features, self.dropout, self.dtype, name=name)
      return module(h, temb, deterministic)

    def attend(h, name):
      if h.shape[1] not in self.attention_resolutions:
        return h
      return attention(self.dtype, name=name)(h)

    t = jnp.broadcast_to(t, x.shape[:1])
    temb = sinusoidal_embedding(t, self.channels)
    temb = dense(4 * self.channels, "temb_dense0", dtype=self.dtype)(temb)
    temb = nn.swish(temb)
    temb = dense(4 * self.channels, "temb_dense1", dtype=self.dtype)(temb)

    levels = range(len(self.channel_mult))
    x = space_to_depth(x, self.patch_size)
    h = Conv(self.channels, dtype=self.dtype, name="conv_in")(x)
    skips = [h]
    for i in levels:
      for j in range(self.num_res_blocks):
        h = block(h, i, f"down_{i}_block_{j}")
        h = attend(h, f"down_{i}_attn_{j}")
        skips.append(h)
      if i != levels[-1]:
        h = Downsample(self.dtype, name=f"down_{i}_downsample")(h)
        skips.append(h)

    h = block(h, levels[-1], "mid_block_1")
    h = attention(self.dtype, name="mid_attn_1")(h)
    h = block(h, levels[-1], "mid_block_2")

    for i in reversed(levels):
      for j in range(self.num_res_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(h, i, f"up_{i}_block_{j}")
        h = attend(h, f"up_{i}_attn_{j}")
      if i != 0:
        h = Upsample(self.dtype, name=f"up_{i}_upsample")(h)

    h = nn.swish(GroupNorm(dtype=self.dtype, name="norm_out")(h))
    features = self.out_channels * self.patch_size**2
    h = Conv(features, init_scale=0.0, dtype=self.dtype, name="conv_out")(h)
    return depth_to_space(h, self.patch_size).astype(jnp.float32)

  def _check(self, x: Array, t: Array) -> None:
    """Raises where x or t does not fit the network."""
    if x.ndim != 4:
      raise ValueError(f"UNet needs x of shape [B, H, W, C], got {x.shape}.")
    if jnp.shape(t) not in ((), x.shape[:1]):
      raise ValueError(
        f"UNet needs t of shape {x.shape[:1]} or (), got {jnp.shape(t)}."
      )
    levels = range(len(self.channel_mult))
    total = self.patch_size * 2 ** levels[-1]
    if x.shape[1] % total or x.shape[2] % total:
      raise ValueError(
        f"UNet with {len(levels)} levels and patch size {self.patch_size} "
        f"needs height and width divisible by {total}, got "
        f"{x.shape[1]} x {x.shape[2]}."
      )
    heights = [x.shape[1] // self.patch_size // 2**i for i in levels]
    if not set(self.attention_resolutions) <= set(heights):
      raise ValueError(
        f"UNet has feature maps of heights {heights}, so attention at "
        f"{self.attention_resolutions} does not exist."
      )


_WIDE_256 = (1, 1, 2, 2, 4, 4)

# The published networks. "image256" is CelebA-HQ's and LSUN's; 192 channels
# give "lsun_bedroom_large" its published 256M parameters; "celeba64" is DDIM's
# (Song et al. 2021), the others DDPM's (Ho et al. 2020, App. B).
NETWORKS = {
  "cifar10": UNet(),
  "image256": UNet(channel_mult=_WIDE_256, dropout=0.0),
  "lsun_bedroom_large": UNet(192, channel_mult=_WIDE_256, dropout=0.0),
  "celeba64": UNet(channel_mult=(1, 2, 2, 2, 4)),
}
