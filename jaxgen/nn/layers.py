"""Layers that the networks share."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen import random
from jaxgen.nn.convolution import conv, upsample_conv
from jaxgen.types import Array

Initializer = Callable[..., Array]


def fan_avg_uniform(scale: float = 1.0) -> Initializer:
  """DDPM's initialiser: uniform, variance scale / mean(fan_in, fan_out).

  A scale of 0 means 1e-10, as in the original code: the layer starts as zero
  to working precision.
  """
  return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


class GroupNorm(nn.Module):
  """Group normalisation (Wu & He 2018), its statistics in float32.

  y = (x - mean) / sqrt(var + epsilon) * scale + bias, mean and variance over
  the positions and channels of a group of one example.

  Attributes:
    num_groups: groups of consecutive channels.
    epsilon: 1e-6 in DDPM, autoencoders and NCSN++; 1e-5 in OpenAI's and SD1's
      residual blocks.
    dtype: of the output.
  """

  num_groups: int = 32
  epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises x `[B, ..., C]`."""
    channels = x.shape[-1]
    if channels % self.num_groups:
      raise ValueError(
        f"GroupNorm with {self.num_groups} groups needs a multiple of "
        f"{self.num_groups} channels, got {channels}."
      )
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    x = x.astype(jnp.float32)
    positions = tuple(range(1, x.ndim - 1))
    shape = (x.shape[0], *[1] * len(positions), channels)

    def group_mean(y):
      # Positions first, then the channels of a group: sums over whole rows
      # of channels are several times faster on a CPU than over the group.
      means = y.mean(positions).reshape(-1, self.num_groups, size).mean(-1)
      return means.repeat(size, axis=-1).reshape(shape)

    size = channels // self.num_groups
    centred = x - group_mean(x)
    rstd = jax.lax.rsqrt(group_mean(jnp.square(centred)) + self.epsilon)
    y = centred * (rstd * _like(x, scale)) + _like(x, bias)
    return y.astype(self.dtype)


class Conv(nn.Module):
  """Convolution with TensorFlow's 'SAME' padding.

  Attributes:
    features: output channels.
    kernel_size: height and width of the kernel.
    stride: of both axes.
    upsample: first double height and width by nearest neighbour.
    init_scale: of `fan_avg_uniform`.
    dtype: of the computation; parameters are float32.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  upsample: bool = False
  init_scale: float = 1.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves x `[B, H, W, C]`."""
    size = (self.kernel_size, self.kernel_size)
    kernel = self.param(
      "kernel",
      fan_avg_uniform(self.init_scale),
      (*size, x.shape[-1], self.features),
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if self.upsample:
      y = upsample_conv(x, kernel)
    else:
      y = conv(x, kernel, self.stride)
    return y + _like(y, bias.astype(self.dtype))


class Dense(nn.Dense):
  """`flax.linen.Dense`, as a product of two matrices whatever axes x has.

  Of a product with more axes XLA's CPU compiler transposes the gradient before
  it multiplies, which took a sixth of BEiT-B's training step.
  """

  def __call__(self, x: Array) -> Array:
    """Maps x `[..., C]` to `[..., features]`."""
    y = super().__call__(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], self.features)


def dense(
  features: int,
  name: str,
  init_scale: float = 1.0,
  dtype: DTypeLike = jnp.float32,
  use_bias: bool = True,
) -> Dense:
  """A dense layer initialised by `fan_avg_uniform(init_scale)`."""
  kernel_init = fan_avg_uniform(init_scale)
  return Dense(features, use_bias, dtype, kernel_init=kernel_init, name=name)


def gelu(x: Array) -> Array:
  """The exact GELU, x Phi(x) = x / 2 (1 + erf(x / sqrt 2)), in float32.

  Hendrycks & Gimpel 2016, section 2. `jax.nn.gelu` has erfc in the place of
  1 + erf, which keeps the relative precision of the left tail and takes twice
  as long; PyTorch's is as this one.
  """
  y = x.astype(jnp.float32)
  return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


def space_to_depth(x: Array, size: int) -> Array:
  """`[B, H, W, C]` -> `[B, H / size, W / size, size^2 C]`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // size, size, w // size, size, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(
    b, h // size, w // size, size * size * c
  )


def depth_to_space(x: Array, size: int) -> Array:
  """The inverse of `space_to_depth`."""
  b, h, w, c = x.shape
  c = c // size**2
  x = x.reshape(b, h, w, size, size, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h * size, w * size, c)


def _like(x: Array, vector: Array) -> Array:
  """A vector `[C]`, shaped to broadcast against x `[..., C]`."""
  return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class Dropout(nn.Module):
  """Dropout (Srivastava et al. 2014): x / (1 - rate), or 0 at that rate.

  The masks are those of `flax.linen.Dropout`; its key is of the stream
  "dropout".

  Attributes:
    rate: probability of a zero, in [0, 1).
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, deterministic: bool) -> Array:
    """Drops entries of x, unless deterministic."""
    if deterministic or self.rate == 0:
      return x
    keep = 1.0 - self.rate
    mask = random.bernoulli(self.make_rng("dropout"), keep, x.shape)
    return jnp.where(mask, x / keep, jnp.zeros_like(x))
