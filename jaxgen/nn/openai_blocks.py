"""The blocks of Improved DDPM's and ADM's networks."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.attention import attention
from jaxgen.nn.convolution import conv, upsample_conv
from jaxgen.nn.layers import Dense, Dropout, GroupNorm, Initializer
from jaxgen.types import Array

Resample = Literal["up", "down"]


def fan_in_uniform(fan_in: int) -> Initializer:
  """PyTorch's default for weights and biases: +- 1 / sqrt(fan_in), uniform."""
  bound = fan_in**-0.5

  def initializer(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return initializer


def linear(
  x: Array,
  features: int,
  name: str,
  *,
  zero: bool = False,
  use_bias: bool = True,
  dtype: DTypeLike = jnp.float32,
) -> Array:
  """A dense layer applied to x `[..., C]`, initialised as PyTorch does.

  Args:
    x: the input.
    features: output channels.
    name: of the layer's scope.
    zero: start at zero instead.
    use_bias: whether it has one.
    dtype: of the computation; parameters are float32.
  """
  init = nn.initializers.zeros if zero else fan_in_uniform(x.shape[-1])
  layer = Dense(
    features, use_bias, dtype, kernel_init=init, bias_init=init, name=name
  )
  return layer(x)


def embed(y: Array, num_classes: int, features: int, name: str) -> Array:
  """Labels `[...]` as vectors `[..., features]`, which start standard normal.

  Args:
    y: labels from 0 to num_classes - 1.
    num_classes: how many there are.
    features: size of the vectors.
    name: of the layer's scope.
  """
  normal = nn.initializers.normal(1.0)
  layer = nn.Embed(num_classes, features, embedding_init=normal, name=name)
  return layer(y)


def norm(name: str, dtype: DTypeLike = jnp.float32) -> GroupNorm:
  """Group normalisation as these networks have it: epsilon is 1e-5."""
  return GroupNorm(epsilon=1e-5, dtype=dtype, name=name)


class Conv(nn.Module):
  """A 3 x 3 convolution, one zero around its input, initialised as PyTorch's.

  Unlike DDPM's, the zeros lie on all four sides also where the stride is 2.

  Attributes:
    features: output channels.
    stride: of both axes.
    upsample: first double height and width by nearest neighbour.
    zero: start at zero.
    dtype: of the computation; parameters are float32.
  """

  features: int
  stride: int = 1
  upsample: bool = False
  zero: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves x `[B, H, W, C]`."""
    channels = x.shape[-1]
    init = nn.initializers.zeros if self.zero else fan_in_uniform(9 * channels)
    kernel = self.param("kernel", init, (3, 3, channels, self.features))
    bias = self.param("bias", init, (self.features,))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if self.upsample:
      y = upsample_conv(x, kernel)
    else:
      y = conv(x, kernel, self.stride, padding=((1, 1), (1, 1)))
    return y + bias.astype(self.dtype)[None, None, None]


def upsample(x: Array) -> Array:
  """Nearest neighbour: `[B, H, W, C]` -> `[B, 2 H, 2 W, C]`."""
  return x.repeat(2, axis=1).repeat(2, axis=2)


def downsample(x: Array) -> Array:
  """Means of 2 x 2 pixels: `[B, H, W, C]` -> `[B, H / 2, W / 2, C]`."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class ResBlock(nn.Module):
  """Two normalised 3 x 3 convolutions, the embedding entering between them.

  With `scale_shift_norm`, Nichol & Dhariwal 2021's conditioning, "AdaGN" in
  Dhariwal & Nichol 2021, Eq. 3:

      AdaGN(h, y) = (1 + y_s) GroupNorm(h) + y_b,  [y_s, y_b] = linear(emb)

  and without it GroupNorm(h + linear(emb)), as in DDPM.

  Attributes:
    features: output channels.
    dropout: rate before the second convolution.
    scale_shift_norm: which of the two.
    resample: halve or double height and width, as BigGAN's blocks do: h
      before its first convolution and x beside it.
    dtype: of the convolutions; parameters are float32.
  """

  features: int
  dropout: float = 0.0
  scale_shift_norm: bool = True
  resample: Resample | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, emb: Array, deterministic: bool) -> Array:
    """Maps x `[B, H, W, C]` and emb `[B, D]` to `[B, H', W', features]`."""
    h = nn.swish(norm("norm1", self.dtype)(x))
    up = self.resample == "up"
    if up:
      x = upsample(x)
    elif self.resample == "down":
      x, h = downsample(x), downsample(h)
    h = Conv(self.features, upsample=up, dtype=self.dtype, name="conv1")(h)

    size = self.features * (2 if self.scale_shift_norm else 1)
    emb = linear(nn.swish(emb), size, "emb_proj")[:, None, None]
    emb = emb.astype(self.dtype)
    if self.scale_shift_norm:
      scale, shift = jnp.split(emb, 2, axis=-1)
      h = norm("norm2", self.dtype)(h) * (1 + scale) + shift
    else:
      h = norm("norm2", self.dtype)(h + emb)
    h = Dropout(self.dropout)(nn.swish(h), deterministic)
    h = Conv(self.features, zero=True, dtype=self.dtype, name="conv2")(h)

    if x.shape[-1] != self.features:
      x = linear(x, self.features, "shortcut", dtype=self.dtype)
    return x + h


def qkv_attention(qkv: Array, num_heads: int, new_order: bool) -> Array:
  """Multi-head attention of T positions: softmax(q k^T / sqrt(d)) v.

  Args:
    qkv: `[B, T, 3 C]`.
    num_heads: heads of d = C / num_heads channels.
    new_order: how the channels are ordered. True: [q | k | v], each of them
      all heads. False, the older: head after head, each of them [q | k | v].

  Returns:
    `[B, T, C]`. The softmax is taken in float32.

  Raises:
    ValueError: if the heads do not divide the channels.
  """
  b, t, c = *qkv.shape[:2], qkv.shape[2] // 3
  if c % num_heads:
    raise ValueError(
      f"qkv_attention needs channels divisible by its {num_heads} heads, got "
      f"{c}."
    )
  if new_order:
    q, k, v = jnp.split(qkv.reshape(b, t, 3 * num_heads, -1), 3, axis=2)
  else:
    q, k, v = jnp.split(qkv.reshape(b, t, num_heads, -1), 3, axis=3)
  return attention(q, k, v).reshape(b, t, c)


class AttentionBlock(nn.Module):
  """Residual self-attention over all H x W positions.

  Attributes:
    num_heads: heads.
    new_attention_order: of the channels of q, k, v; see `qkv_attention`.
    dtype: of the computation; parameters are float32.
  """

  num_heads: int
  new_attention_order: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to its own shape."""
    b, h, w, c = x.shape
    y = norm("norm", self.dtype)(x).reshape(b, h * w, c)
    qkv = linear(y, 3 * c, "qkv", dtype=self.dtype)
    y = qkv_attention(qkv, self.num_heads, self.new_attention_order)
    y = linear(y, c, "proj_out", zero=True, dtype=self.dtype)
    return x + y.reshape(b, h, w, c)
