"""The U-Net of Improved DDPM and of ADM.

Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models";
Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis",
section 3 and Table 11.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.embeddings import sinusoidal_embedding
from jaxgen.nn.openai_blocks import (
  AttentionBlock,
  Conv,
  Resample,
  ResBlock,
  downsample,
  embed,
  linear,
  norm,
  upsample,
)
from jaxgen.types import Array


class HalfUNet(nn.Module):
  """What the U-Nets share with ADM's classifier, which lacks the way up.

  Attributes:
    channels: the unit of the widths.
    channel_mult: width of each level as a multiple of `channels`.
    num_res_blocks: residual blocks per level.
    attention_resolutions: heights of the feature maps that have attention.
    num_heads: heads of the attention.
    num_head_channels: channels per head, in place of `num_heads`.
    new_attention_order: order of the channels of q, k, v; see
      `openai_blocks.qkv_attention`.
    scale_shift_norm: the embedding scales and shifts; if False it is added.
    resblock_updown: residual blocks halve and double the size; if False
      convolutions do.
    conv_resample: if also False, 2 x 2 means and nearest neighbours do.
    dropout: rate inside the residual blocks.
    dtype: of convolutions and attention. Parameters, embeddings,
      normalisation statistics, softmax and the last layers are float32.
    remat: recompute each block's activations in the backward pass.
  """

  channels: int = 128
  channel_mult: tuple[float, ...] = (1, 2, 3, 4)
  num_res_blocks: int = 3
  attention_resolutions: tuple[int, ...] = (16, 8)
  num_heads: int = 4
  num_head_channels: int | None = None
  new_attention_order: bool = False
  scale_shift_norm: bool = True
  resblock_updown: bool = False
  conv_resample: bool = True
  dropout: float = 0.0
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def embed(self, t: Array, batch: int) -> Array:
    """The embedding `[B, 4 channels]` of times t `[B]` or `[]`."""
    t = jnp.broadcast_to(t, (batch,))
    emb = sinusoidal_embedding(t, self.channels, cos_first=True, endpoint=False)
    emb = nn.swish(linear(emb, 4 * self.channels, "temb_dense0"))
    return linear(emb, 4 * self.channels, "temb_dense1")

  def way_down(
    self,
    x: Array,
    emb: Array,
    deterministic: bool,
    context: Array | None = None,
  ) -> list[Array]:
    """The feature map of every layer from the first convolution downwards."""
    block = partial(self.block, emb, deterministic)
    resize = partial(self.resize, emb, deterministic)
    h = Conv(self.width(0), dtype=self.dtype, name="conv_in")(x)
    features = [h]
    for i in range(len(self.channel_mult)):
      for j in range(self.num_res_blocks):
        h = block(h, i, f"down_{i}_block_{j}")
        name = f"down_{i}_attn_{j}"
        h = self.attend(h, i, self.num_heads, name, context)
        features.append(h)
      if i != len(self.channel_mult) - 1:
        h = resize(h, i, "down", f"down_{i}_downsample")
        features.append(h)
    return features

  def middle(
    self,
    h: Array,
    emb: Array,
    deterministic: bool,
    context: Array | None = None,
  ) -> Array:
    """Two residual blocks with attention between them."""
    block = partial(self.block, emb, deterministic)
    last = len(self.channel_mult) - 1
    h = block(h, last, "mid_block_1")
    h = self.attention(h, self.num_heads, "mid_attn_1", context)
    return block(h, last, "mid_block_2")

  def way_up(
    self,
    features: list[Array],
    emb: Array,
    deterministic: bool,
    num_heads: int,
    context: Array | None = None,
  ) -> Array:
    """From the middle to the size of x, past the features of the way down."""
    h = self.middle(features[-1], emb, deterministic, context)
    for i in reversed(range(len(self.channel_mult))):
      for j in range(self.num_res_blocks + 1):
        h = jnp.concatenate([h, features.pop()], axis=-1)
        h = self.block(emb, deterministic, h, i, f"up_{i}_block_{j}")
        h = self.attend(h, i, num_heads, f"up_{i}_attn_{j}", context)
      if i != 0:
        h = self.resize(emb, deterministic, h, i, "up", f"up_{i}_upsample")
    return h

  def width(self, level: int) -> int:
    """Channels of a level."""
    return int(self.channels * self.channel_mult[level])

  def block(
    self,
    emb: Array,
    deterministic: bool,
    h: Array,
    level: int,
    name: str,
    resample: Resample | None = None,
  ) -> Array:
    """A residual block of a level's width."""
    module = nn.remat(ResBlock, static_argnums=3) if self.remat else ResBlock
    options = (self.dropout, self.scale_shift_norm, resample, self.dtype)
    res_block = module(self.width(level), *options, name=name)
    return res_block(h, emb, deterministic)

  def resize(
    self,
    emb: Array,
    deterministic: bool,
    h: Array,
    level: int,
    direction: Resample,
    name: str,
  ) -> Array:
    """Halves or doubles height and width."""
    if self.resblock_updown:
      return self.block(emb, deterministic, h, level, name, direction)
    if not self.conv_resample:
      return upsample(h) if direction == "up" else downsample(h)
    up = direction == "up"
    layer = Conv(
      self.width(level), 1 if up else 2, up, dtype=self.dtype, name=name
    )
    return layer(h)

  def attend(
    self,
    h: Array,
    level: int,
    num_heads: int,
    name: str,
    context: Array | None,
  ) -> Array:
    """Attention, if feature maps as h have it."""
    if not self.has_attention(level, h.shape[1]):
      return h
    return self.attention(h, num_heads, name, context)

  def has_attention(self, level: int, height: int) -> bool:
    """Whether a level's feature maps, of this height, have attention."""
    return height in self.attention_resolutions

  def attention(
    self, h: Array, num_heads: int, name: str, context: Array | None = None
  ) -> Array:
    """An attention block. Only latent diffusion's can see a context."""
    module = nn.remat(AttentionBlock) if self.remat else AttentionBlock
    num_heads = self.heads(h.shape[-1], num_heads, name)
    block = module(num_heads, self.new_attention_order, self.dtype, name=name)
    return block(h)

  def heads(self, width: int, num_heads: int, name: str) -> int:
    """Heads of an attention of this width: given, or of a size given."""
    if self.num_head_channels is None:
      return num_heads
    num_heads, rest = divmod(width, self.num_head_channels)
    if rest:
      raise ValueError(
        f"{name} has heads of {self.num_head_channels} channels and needs a "
        f"width that they divide, got {width}."
      )
    return num_heads

  def check(self, x: Array, t: Array) -> None:
    """Raises where x or t does not fit the network."""
    name = type(self).__name__
    if x.ndim != 4:
      raise ValueError(f"{name} needs x of shape [B, H, W, C], got {x.shape}.")
    if jnp.shape(t) not in ((), x.shape[:1]):
      raise ValueError(
        f"{name} needs t of shape {x.shape[:1]} or (), got {jnp.shape(t)}."
      )
    levels = len(self.channel_mult)
    total = 2 ** (levels - 1)
    if x.shape[1] % total or x.shape[2] % total:
      raise ValueError(
        f"{name} with {levels} levels needs height and width divisible by "
        f"{total}, got {x.shape[1]} x {x.shape[2]}."
      )
    self.check_attention(x.shape[1])

  def check_attention(self, height: int) -> None:
    """Raises where no feature map of x of this height is to have attention."""
    heights = [height // 2**i for i in range(len(self.channel_mult))]
    if not set(self.attention_resolutions) <= set(heights):
      raise ValueError(
        f"{type(self).__name__} has feature maps of heights {heights}, so "
        f"attention at {self.attention_resolutions} does not exist."
      )


class UNet(HalfUNet):
  """Improved DDPM's and ADM's U-Net; the defaults are the former's ImageNet-64.

  Attributes:
    num_heads_upsample: heads on the way up, if not `num_heads`.
    num_classes: labels, where the network is conditional on a class.
    super_resolution: whether it is conditional on a smaller image.
    out_channels: 6 are the mean and the variance's interpolation (Nichol &
      Dhariwal 2021, Eq. 15) of 3 channels.
  """

  num_heads_upsample: int | None = None
  num_classes: int | None = None
  super_resolution: bool = False
  out_channels: int = 6

  @nn.compact
  def __call__(
    self,
    x: Array,
    t: Array,
    y: Array | None = None,
    low_res: Array | None = None,
    deterministic: bool = True,
  ) -> Array:
    """The network's output for x at timestep t.

    Args:
      x: `[B, H, W, C]`.
      t: `[B]` or `[]`, as the published networks expect it; see the tables
        below. Of any integer or floating type.
      y: labels `[B]` or `[]`, needed if and only if there are `num_classes`.
      low_res: smaller images `[B, h, w, C]`, needed if and only if
        `super_resolution`. They are enlarged bilinearly.
      deterministic: no dropout; if False, an rng named 'dropout' is needed.

    Returns:
      `[B, H, W, out_channels]`, float32.

    Raises:
      ValueError: if the height or width does not divide, an attention
        resolution does not occur, or a condition is missing or superfluous.
    """
    self.check(x, t)
    self._check_conditions(x, y, low_res)
    emb = self.embed(t, x.shape[0])
    if self.num_classes is not None and y is not None:
      y = jnp.broadcast_to(y, x.shape[:1])
      emb = emb + embed(y, self.num_classes, emb.shape[-1], "label_emb")
    if low_res is not None:
      shape = (*x.shape[:3], low_res.shape[-1])
      large = jax.image.resize(low_res, shape, "bilinear", antialias=False)
      x = jnp.concatenate([x, large], axis=-1)

    features = self.way_down(x, emb, deterministic)
    num_heads = self.num_heads_upsample or self.num_heads
    h = self.way_up(features, emb, deterministic, num_heads)
    h = nn.swish(norm("norm_out")(h))
    return Conv(self.out_channels, zero=True, name="conv_out")(h)

  def _check_conditions(
    self, x: Array, y: Array | None, low_res: Array | None
  ) -> None:
    if (y is None) != (self.num_classes is None):
      wanted = "no labels y" if y is not None else "labels y"
      raise ValueError(
        f"UNet with num_classes {self.num_classes} needs {wanted}."
      )
    if y is not None and jnp.shape(y) not in ((), x.shape[:1]):
      raise ValueError(
        f"UNet needs y of shape {x.shape[:1]} or (), got {jnp.shape(y)}."
      )
    if (low_res is None) == self.super_resolution:
      wanted = "low_res" if low_res is None else "no low_res"
      raise ValueError(
        f"UNet with super_resolution {self.super_resolution} needs {wanted}."
      )
    if low_res is not None and (
      low_res.ndim != 4 or low_res.shape[::3] != x.shape[::3]
    ):
      raise ValueError(
        f"UNet needs low_res of shape [B, h, w, C] with B and C of x "
        f"{x.shape}, got {low_res.shape}."
      )


_WIDTHS_128 = (1, 1, 2, 3, 4)
_WIDTHS_256 = (1, 1, 2, 2, 4, 4)
_WIDTHS_512 = (0.5, 1, 1, 2, 2, 4, 4)

# Nichol & Dhariwal 2021; options of the released checkpoints. With steps
# 0, ..., T - 1 called t, "imagenet64" and "cifar10" (T = 4000) expect
# t 1000 / T, the others, and all of ADM's, t itself. Those two were released
# twice, trained with L_hybrid and with L_vlb.
IDDPM_NETWORKS = {
  "imagenet64": UNet(),
  "imagenet64_cond": UNet(192, num_classes=1000),
  "cifar10": UNet(channel_mult=(1, 2, 2, 2), dropout=0.3),
  "lsun_bedroom": UNet(
    channel_mult=_WIDTHS_256,
    num_res_blocks=2,
    attention_resolutions=(16,),
    num_heads=1,
    scale_shift_norm=False,
  ),
  "upsample_64_256": UNet(
    192,
    _WIDTHS_256,
    num_res_blocks=2,
    num_classes=1000,
    super_resolution=True,
  ),
}

_ADM = UNet(
  256,
  _WIDTHS_256,
  num_res_blocks=2,
  attention_resolutions=(32, 16, 8),
  num_head_channels=64,
  resblock_updown=True,
)
_ADM_COND = _ADM.clone(num_classes=1000)
_ADM_UPSAMPLE = _ADM_COND.clone(channels=192, super_resolution=True)

# Dhariwal & Nichol 2021, Table 11; options of the released checkpoints.
# "lsun" is that of bedrooms, cats and horses, and with dropout 0 the second
# network of horses.
ADM_NETWORKS = {
  "imagenet64": _ADM_COND.clone(
    channels=192,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=3,
    new_attention_order=True,
    dropout=0.1,
  ),
  "imagenet128": _ADM_COND.clone(
    channel_mult=_WIDTHS_128, num_head_channels=None
  ),
  "imagenet256": _ADM_COND,
  "imagenet256_uncond": _ADM,
  "imagenet512": _ADM_COND.clone(channel_mult=_WIDTHS_512),
  "upsample_64_256": _ADM_UPSAMPLE.clone(num_head_channels=None),
  "upsample_128_512": _ADM_UPSAMPLE.clone(attention_resolutions=(32, 16)),
  "lsun": _ADM.clone(dropout=0.1),
}
