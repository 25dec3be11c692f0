"""Discriminators that judge reconstructions patch by patch."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.batch_norm import BatchNorm
from jaxgen.nn.convolution import conv
from jaxgen.nn.layers import Initializer
from jaxgen.nn.openai_blocks import fan_in_uniform
from jaxgen.types import Array, Key

_NORMAL = nn.initializers.normal(0.02)


def _about_one(key: Key, shape: tuple[int, ...]) -> Array:
  """N(1, 0.02^2), of the scales."""
  return 1.0 + _NORMAL(key, shape)


class Conv(nn.Module):
  """A 4 x 4 convolution, one zero around its input; kernels are N(0, 0.02^2).

  Attributes:
    features: output channels.
    stride: of both axes.
    use_bias: add a vector, which starts as PyTorch's.
    dtype: of the computation; parameters are float32.
  """

  features: int
  stride: int
  use_bias: bool
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, (H - 2) / stride + 1, ..., features]`."""
    channels = x.shape[-1]
    kernel = self.param("kernel", _NORMAL, (4, 4, channels, self.features))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    y = conv(x, kernel, self.stride, padding=((1, 1), (1, 1)))
    if not self.use_bias:
      return y
    init: Initializer = fan_in_uniform(16 * channels)
    bias = self.param("bias", init, (self.features,))
    return y + bias.astype(self.dtype)[None, None, None]


class NLayerDiscriminator(nn.Module):
  """The PatchGAN of pix2pix (Isola et al. 2017, App. 6.1.2), as VQGAN has it.

  `num_layers` strided convolutions, the first without normalisation, then two
  of stride 1: with 3 layers, every output judges a patch of 70 x 70 pixels.
  LDM's first stages were trained with 3, vq-f8 and vq-f16 with 2.

  It starts as the original does: N(0, 0.02^2), scales N(1, 0.02^2).

  Attributes:
    channels: width of the first layer; it doubles from layer to layer, up to
      eight times.
    num_layers: strided convolutions.
    dtype: of the computation; parameters, statistics and logits are float32.
  """

  channels: int = 64
  num_layers: int = 3
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool = True) -> Array:
    """The logits of patches being real.

    Args:
      x: images `[B, H, W, C]`, usually in [-1, 1].
      train: normalise by the batch's statistics, as training does for both
        networks; see `BatchNorm`.

    Returns:
      `[B, h, w, 1]`, float32.

    Raises:
      ValueError: if the images are too small to give one logit.
    """
    smallest = 3 * 2**self.num_layers
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
      raise ValueError(
        f"NLayerDiscriminator with {self.num_layers} layers needs x of shape "
        f"[B, H, W, C], H and W at least {smallest}, got {x.shape}."
      )

    def layer(x, i, width, stride, bias):
      return Conv(width, stride, bias, self.dtype, name=f"conv_{i}")(x)

    h = nn.leaky_relu(layer(x, 0, self.channels, 2, True), 0.2)
    for i in range(1, self.num_layers + 1):
      width = self.channels * min(2**i, 8)
      stride = 2 if i < self.num_layers else 1
      h = layer(h, i, width, stride, False)
      norm = BatchNorm(_about_one, self.dtype, name=f"norm_{i}")
      h = nn.leaky_relu(norm(h, train), 0.2)
    return layer(h, i + 1, 1, 1, True).astype(jnp.float32)
