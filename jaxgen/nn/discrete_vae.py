"""BEiT's own discrete autoencoder, a second tokenizer beside DALL-E's.

Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", App. C, and
`DiscreteVAE` of the released code, which follows DALLE-pytorch. Images here are
in [-1, 1], as BEiT normalises them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.convolution import conv
from jaxgen.nn.openai_blocks import fan_in_uniform
from jaxgen.types import Array


class Conv(nn.Module):
  """A convolution, its weights at first as PyTorch draws them.

  Attributes:
    features: output channels.
    size: height and width of the kernel.
    stride: 1, or 2 to halve the image.
    padding: zeros on each side.
    dtype: of the computation; parameters are float32.
  """

  features: int
  size: int = 1
  stride: int = 1
  padding: int = 0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves x `[B, H, W, C]`."""
    init = fan_in_uniform(self.size**2 * x.shape[-1])
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", init, shape).astype(self.dtype)
    bias = self.param("bias", init, (self.features,)).astype(self.dtype)
    sides = ((self.padding, self.padding),) * 2
    x = conv(x.astype(self.dtype), kernel, self.stride, sides)
    return x + bias[None, None, None]


class Upsample(nn.Module):
  """A transposed convolution of 4 x 4 pixels, stride 2 and padding 1.

  y[2 i + a - 1, 2 j + b - 1] is the sum of W[a, b] x[i, j], plus a bias.

  Attributes:
    features: output channels.
    dtype: of the computation; parameters are float32.
  """

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, 2 H, 2 W, features]`."""
    init = fan_in_uniform(16 * self.features)
    shape = (4, 4, self.features, x.shape[-1])
    kernel = self.param("kernel", init, shape).astype(self.dtype)
    bias = self.param("bias", init, (self.features,)).astype(self.dtype)
    y = transposed_conv(x.astype(self.dtype), kernel)
    return y + bias[None, None, None]


def transposed_conv(x: Array, kernel: Array) -> Array:
  """A transposed convolution of 4 x 4 pixels, stride 2 and padding 1.

  On a CPU, where zeros between the pixels of x cost as much as pixels, it is
  four 2 x 2 convolutions of x itself: along one axis, output 2 i sees taps 3
  and 1 of x[i - 1] and x[i], output 2 i + 1 taps 2 and 0 of x[i] and x[i + 1].

  Args:
    x: `[B, H, W, C]`.
    kernel: `[4, 4, D, C]`.

  Returns:
    `[B, 2 H, 2 W, D]`.
  """
  if jax.default_backend() != "cpu":
    return jax.lax.conv_general_dilated(
      x,
      kernel[::-1, ::-1],
      window_strides=(1, 1),
      padding=((2, 2), (2, 2)),
      lhs_dilation=(2, 2),
      dimension_numbers=("NHWC", "HWOI", "NHWC"),
    )
  kernel = kernel.swapaxes(2, 3)
  # Taps of even and of odd outputs, and where these need a zero.
  phases = ((slice(3, None, -2), (1, 0)), (slice(2, None, -2), (0, 1)))
  rows = [
    jnp.stack(
      [
        conv(x, kernel[rows, columns], padding=(above, left))
        for columns, left in phases
      ],
      axis=3,
    )
    for rows, above in phases
  ]
  b, h, w, _ = x.shape
  return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


class ResBlock(nn.Module):
  """x + three convolutions, 3, 3 and 1 pixels wide, with relu between them.

  Attributes:
    dtype: of the computation.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to its own shape."""
    width = x.shape[-1]
    h = Conv(width, 3, 1, 1, self.dtype, name="conv_0")(x)
    h = Conv(width, 3, 1, 1, self.dtype, name="conv_1")(jax.nn.relu(h))
    return x + Conv(width, dtype=self.dtype, name="conv_2")(jax.nn.relu(h))


class Encoder(nn.Module):
  """Images -> logits of tokens, one token for f x f pixels, f = 2^num_layers.

  Attributes:
    channels: width of all layers.
    num_layers: each halves the image.
    num_tokens: of the vocabulary.
    dtype: of all layers but the last, which is float32 like the parameters.
  """

  channels: int = 256
  num_layers: int = 3
  num_tokens: int = 8192
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Logits `[B, H / f, W / f, num_tokens]` of images x `[B, H, W, C]`.

    Raises:
      ValueError: if the height or width is no multiple of f.
    """
    f = 2**self.num_layers
    if x.ndim != 4 or x.shape[1] % f or x.shape[2] % f:
      raise ValueError(
        f"Encoder needs x [B, H, W, C] with H and W divisible by {f}, got "
        f"{x.shape}."
      )
    h = x
    for i in range(self.num_layers):
      down = Conv(self.channels, 4, 2, 1, self.dtype, name=f"down_{i}")
      h = ResBlock(self.dtype, name=f"block_{i}")(jax.nn.relu(down(h)))
    return Conv(self.num_tokens, name="output")(h.astype(jnp.float32))


class Decoder(nn.Module):
  """Tokens -> images.

  Attributes:
    channels: width of all layers.
    num_layers: each doubles the image.
    code_width: channels of a token's vector.
    output_channels: of the images.
    dtype: of all layers but the codebook, which is float32.
  """

  channels: int = 256
  num_layers: int = 3
  code_width: int = 512
  output_channels: int = 3
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    """Images `[B, f H, f W, output_channels]`, float32, not cut to [-1, 1].

    Args:
      z: distributions over tokens `[B, H, W, num_tokens]`; one-hot for tokens
        themselves.
    """
    shape = (z.shape[-1], self.code_width)
    codebook = self.param("codebook", nn.initializers.normal(1.0), shape)
    h = z.astype(jnp.float32) @ codebook
    for i in range(self.num_layers):
      up = Upsample(self.channels, self.dtype, name=f"up_{i}")
      h = ResBlock(self.dtype, name=f"block_{i}")(jax.nn.relu(up(h)))
    h = Conv(self.output_channels, dtype=self.dtype, name="output")(h)
    return h.astype(jnp.float32)
