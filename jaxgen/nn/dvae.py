"""DALL-E's discrete autoencoder, whose codes are BEiT's visual tokens.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.1 and App.
A.1 to A.2, and the released code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.convolution import conv
from jaxgen.types import Array

EPSILON = 0.1  # of `map_pixels`


def map_pixels(x: Array) -> Array:
  """Pixels in [0, 1] -> [0.1, 0.9], away from where a logit is infinite.

  (1 - 2 eps) x + eps with eps = 0.1 (App. A.3).
  """
  return (1 - 2 * EPSILON) * x + EPSILON


def unmap_pixels(x: Array) -> Array:
  """The inverse of `map_pixels`, cut to [0, 1]."""
  return jnp.clip((x - EPSILON) / (1 - 2 * EPSILON), 0, 1)


class Conv(nn.Module):
  """A convolution of odd size, as much zero around its input as keeps its size.

  Attributes:
    features: output channels.
    size: height and width of the kernel.
    dtype: of the computation; parameters are float32.
  """

  features: int
  size: int = 1
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves x `[B, H, W, C]`."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    fan_in = self.size**2 * x.shape[-1]
    kernel = self.param("w", nn.initializers.normal(fan_in**-0.5), shape)
    bias = self.param("b", nn.initializers.zeros, (self.features,))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return conv(x, kernel) + bias.astype(self.dtype)[None, None, None]


class Block(nn.Module):
  """x + gain * four convolutions of relu, whose middle is a quarter as wide.

  The encoder's convolutions are 3, 3, 3 and 1 pixels wide, the decoder's 1, 3,
  3 and 3. A 1 x 1 convolution takes x to another width.

  Attributes:
    features: output channels.
    sizes: of the four kernels.
    gain: 1 / (number of the network's blocks)^2.
    dtype: of the computation.
  """

  features: int
  sizes: tuple[int, int, int, int]
  gain: float
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H, W, features]`."""
    hidden = self.features // 4
    h = x
    for i, size in enumerate(self.sizes):
      width = self.features if i == 3 else hidden
      layer = Conv(width, size, self.dtype, name=f"conv_{i + 1}")
      h = layer(jax.nn.relu(h))
    if x.shape[-1] != self.features:
      x = Conv(self.features, dtype=self.dtype, name="id_path")(x)
    return x + self.gain * h


class Encoder(nn.Module):
  """Images -> logits of tokens, one token for f x f pixels.

  f = 2^(num_groups - 1), DALL-E's 8.

  Attributes:
    channels: width of the first level, which doubles at each of the others.
    num_blocks: of each level.
    num_tokens: of the vocabulary.
    num_groups: levels; images are halved between them.
    dtype: of all layers but the last, which is float32 like the parameters.
  """

  channels: int = 256
  num_blocks: int = 2
  num_tokens: int = 8192
  num_groups: int = 4
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Logits `[B, H / f, W / f, num_tokens]` of x `[B, H, W, C]`.

    Args:
      x: what `map_pixels` gives.

    Raises:
      ValueError: if the height or width is no multiple of f.
    """
    f = 2 ** (self.num_groups - 1)
    if x.ndim != 4 or x.shape[1] % f or x.shape[2] % f:
      raise ValueError(
        f"Encoder needs x [B, H, W, C] with H and W divisible by {f}, got "
        f"{x.shape}."
      )
    gain = (self.num_groups * self.num_blocks) ** -2
    h = Conv(self.channels, 7, self.dtype, name="input")(x)
    for i in range(self.num_groups):
      for j in range(self.num_blocks):
        name = f"group_{i + 1}_block_{j + 1}"
        width = 2**i * self.channels
        h = Block(width, (3, 3, 3, 1), gain, self.dtype, name=name)(h)
      if i != self.num_groups - 1:
        h = nn.max_pool(h, (2, 2), (2, 2))
    h = jax.nn.relu(h.astype(jnp.float32))
    return Conv(self.num_tokens, name="output")(h)


class Decoder(nn.Module):
  """Tokens -> images' parameters.

  Attributes:
    channels: width of the last level.
    num_blocks: of each level.
    first_channels: of a token's vector.
    output_channels: of the images.
    num_groups: levels; images are doubled between them.
    dtype: of all layers but the first, which is float32 like the parameters.
  """

  channels: int = 256
  num_blocks: int = 2
  first_channels: int = 128
  output_channels: int = 3
  num_groups: int = 4
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    """What `dvae_loss` takes, `[B, f H, f W, 2 output_channels]`, float32.

    Args:
      z: distributions over tokens `[B, H, W, num_tokens]`; one-hot for tokens
        themselves.
    """
    gain = (self.num_groups * self.num_blocks) ** -2
    h = Conv(self.first_channels, name="input")(z)
    for i in range(self.num_groups):
      for j in range(self.num_blocks):
        name = f"group_{i + 1}_block_{j + 1}"
        width = 2 ** (self.num_groups - 1 - i) * self.channels
        h = Block(width, (1, 3, 3, 3), gain, self.dtype, name=name)(h)
      if i != self.num_groups - 1:
        h = h.repeat(2, axis=1).repeat(2, axis=2)
    h = Conv(2 * self.output_channels, dtype=self.dtype, name="output")(
      jax.nn.relu(h)
    )
    return h.astype(jnp.float32)


def tokens_of(logits: Array) -> Array:
  """The tokens `[B, H, W]`, int32: the likeliest, as BEiT takes them."""
  return logits.argmax(-1).astype(jnp.int32)


def reconstruction(outputs: Array) -> Array:
  """Images in [0, 1] from the decoder's outputs: the mode's logit is mu."""
  mu, _ = jnp.split(outputs, 2, axis=-1)
  return unmap_pixels(jax.nn.sigmoid(mu))
