"""The blocks of NCSN++ and DDPM++ (Song et al. 2021, App. H)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn import resample
from jaxgen.nn.attention import attention
from jaxgen.nn.layers import (
  Conv,
  Dropout,
  GroupNorm,
  dense,
  fan_avg_uniform,
)
from jaxgen.types import Array

Taps = tuple[int, ...]

# Scale of the 1 x 1 maps that DDPM's code calls network in network.
NIN_SCALE = 0.1


def group_norm(x: Array, name: str, dtype: DTypeLike) -> Array:
  """Group normalisation by C / 4 groups, at most 32."""
  num_groups = min(x.shape[-1] // 4, 32)
  return GroupNorm(num_groups, epsilon=1e-6, dtype=dtype, name=name)(x)


def residual_sum(x: Array, h: Array, rescale: bool) -> Array:
  """x + h, divided by sqrt(2) if `rescale` to keep the variance."""
  return (x + h) / math.sqrt(2) if rescale else x + h


class FourierEmbedding(nn.Module):
  """Sines and cosines of log(sigma) at fixed random frequencies.

  [sin(2 pi w log sigma), cos(2 pi w log sigma)], w ~ N(0, scale^2) drawn once
  (Tancik et al. 2020): a parameter without a gradient.

  Attributes:
    dim: number of frequencies.
    scale: their standard deviation.
  """

  dim: int
  scale: float = 16.0

  @nn.compact
  def __call__(self, sigma: Array) -> Array:
    """Maps sigma `[B]` to `[B, 2 dim]`, float32."""
    w = self.param("w", nn.initializers.normal(self.scale), (self.dim,))
    logs = jnp.log(sigma.astype(jnp.float32))
    angles = logs[:, None] * jax.lax.stop_gradient(w)[None] * 2 * math.pi
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ResBlock(nn.Module):
  """Two normalised 3 x 3 convolutions with the time added between them.

  BigGAN's block (Brock et al. 2019) resamples inside, before the first
  convolution and on the shortcut; DDPM's (Ho et al. 2020) never does.

  Attributes:
    features: output channels.
    biggan: BigGAN's block in place of DDPM's, whose shortcut starts smaller.
    resampling: "up", "down" or "none"; only BigGAN's block resamples.
    fir_kernel: taps of the filter for it; None is plain resampling.
    dropout: rate before the second convolution.
    skip_rescale: divide the sum by sqrt(2).
    init_scale: of the second convolution.
    dtype: of the computation; parameters are float32.
  """

  features: int
  biggan: bool = True
  resampling: str = "none"
  fir_kernel: Taps | None = (1, 3, 3, 1)
  dropout: float = 0.0
  skip_rescale: bool = True
  init_scale: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, temb: Array | None, deterministic: bool
  ) -> Array:
    """Maps x `[B, H, W, C]` and temb `[B, D]` to `[B, H', W', features]`."""
    h = nn.swish(group_norm(x, "norm1", self.dtype))
    if self.resampling != "none":
      resize = {"up": resample.upsample, "down": resample.downsample}
      taps = self.fir_kernel or resample.PLAIN
      h, x = (resize[self.resampling](y, taps) for y in (h, x))
    h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
    if temb is not None:
      shift = dense(self.features, "temb_proj", dtype=self.dtype)
      h = h + shift(nn.swish(temb))[:, None, None]
    h = nn.swish(group_norm(h, "norm2", self.dtype))
    h = Dropout(self.dropout)(h, deterministic)
    h = Conv(
      self.features, init_scale=self.init_scale, dtype=self.dtype, name="conv2"
    )(h)
    if x.shape[-1] != self.features or self.resampling != "none":
      scale = 1.0 if self.biggan else NIN_SCALE
      x = dense(self.features, "shortcut", scale, self.dtype)(x)
    return residual_sum(x, h, self.skip_rescale)


class AttentionBlock(nn.Module):
  """Residual self-attention: one head over all H x W positions.

  x + proj_out(softmax(q k^T / sqrt(C)) v), with q, k, v = dense(norm(x)). The
  softmax is taken in float32.

  Attributes:
    skip_rescale: divide the sum by sqrt(2).
    init_scale: of the last dense layer.
    dtype: of the computation; parameters are float32.
  """

  skip_rescale: bool = True
  init_scale: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to its own shape."""
    b, h, w, c = x.shape
    y = group_norm(x, "norm", self.dtype)
    q, k, v = (
      dense(c, name, NIN_SCALE, self.dtype)(y).reshape(b, h * w, 1, c)
      for name in ("q", "k", "v")
    )
    y = attention(q, k, v).reshape(b, h, w, c)
    y = dense(c, "proj_out", self.init_scale, self.dtype)(y)
    return residual_sum(x, y, self.skip_rescale)


class FIRConv(nn.Module):
  """A filter and a 3 x 3 convolution that doubles or halves, padded once.

  Attributes:
    features: output channels.
    up: doubles; otherwise halves.
    fir_kernel: taps of the filter.
    dtype: of the computation; parameters are float32.
  """

  features: int
  up: bool
  fir_kernel: Taps
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """`[B, H, W, C]` -> `[B, 2 H, 2 W, features]`, or a half of each."""
    kernel = self.param(
      "kernel", fan_avg_uniform(), (3, 3, x.shape[-1], self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    operation = resample.upsample_conv if self.up else resample.downsample_conv
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    y = operation(x, kernel, self.fir_kernel)
    return y + bias.astype(self.dtype)[None, None, None]


class Resample(nn.Module):
  """Doubles or halves height and width, with or without a convolution.

  Attributes:
    up: doubles; otherwise halves.
    features: output channels of the convolution; None is no convolution.
    fir_kernel: taps of the filter. None is nearest neighbour upwards, and
      downwards a strided convolution or the mean of 2 x 2 pixels.
    dtype: of the computation; parameters are float32.
  """

  up: bool
  features: int | None = None
  fir_kernel: Taps | None = (1, 3, 3, 1)
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """`[B, H, W, C]` -> `[B, 2 H, 2 W, D]` or `[B, H / 2, W / 2, D]`."""
    if self.features is None:
      operation = resample.upsample if self.up else resample.downsample
      return operation(x, self.fir_kernel or resample.PLAIN)
    if self.fir_kernel:
      return FIRConv(
        self.features, self.up, self.fir_kernel, self.dtype, name="conv"
      )(x)
    return Conv(
      self.features,
      stride=1 if self.up else 2,
      upsample=self.up,
      dtype=self.dtype,
      name="conv",
    )(x)
