"""The classifier of noisy images that conditions score SDEs on a class.

A wide residual network (Zagoruyko & Komodakis 2016) that sees the noise level
(Song et al. 2021, section 5 and App. I).
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn import resample
from jaxgen.nn.layers import Dense, GroupNorm
from jaxgen.nn.ncsnpp_blocks import FourierEmbedding
from jaxgen.types import Array

_EMBEDDING = 128  # Fourier frequencies


class WideBlock(nn.Module):
  """A pre-activated residual block with the noise level added inside.

  The shortcut has no weights: it is pooled and padded with zero channels.

  Attributes:
    features: output channels.
    stride: of the first convolution, 1 or 2.
    activate_shortcut: normalise the shortcut, too.
    dtype: of the computation; parameters are float32.
  """

  features: int
  stride: int = 1
  activate_shortcut: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, temb: Array) -> Array:
    """Maps x `[B, H, W, C]` and temb `[B, D]` to `[B, H', W', features]`."""
    h = _activated(x, "norm1", self.dtype)
    if self.activate_shortcut:
      x = h
    h = _conv(self.features, self.stride, self.dtype, "conv1")(h)
    shift = Dense(self.features, dtype=self.dtype, name="temb_proj")
    h = h + shift(nn.swish(temb))[:, None, None]
    h = _activated(h, "norm2", self.dtype)
    h = _conv(self.features, 1, self.dtype, "conv2")(h)
    if self.stride == 2:
      x = resample.downsample(x)
    extra = self.features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, extra))) + h


class WideResNet(nn.Module):
  """Logits of noisy images; the defaults are the WRN-28-10 for CIFAR-10.

  Attributes:
    blocks_per_group: residual blocks in each of three groups.
    channel_multiplier: width of the groups over 16, 32 and 64.
    num_classes: number of logits.
    mean: of the data's channels, images in [0, 1].
    std: their standard deviation.
    dtype: of the computation. Parameters, normalisation statistics and the
      logits are float32.
  """

  blocks_per_group: int = 4
  channel_multiplier: int = 10
  num_classes: int = 10
  mean: tuple[float, ...] = (0.49139968, 0.48215841, 0.44653091)
  std: tuple[float, ...] = (0.24703223, 0.24348513, 0.26158784)
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, sigma: Array) -> Array:
    """Logits of x = x_0 + sigma eps, the marginal of the VE SDE.

    Args:
      x: `[B, H, W, C]`, x_0 in [0, 1].
      sigma: `[B]` or `[]`.

    Returns:
      `[B, num_classes]`, float32.

    Raises:
      ValueError: if the channels are not those of `mean`.
    """
    if x.shape[-1] != len(self.mean):
      raise ValueError(
        f"WideResNet needs images of {len(self.mean)} channels, got shape "
        f"{x.shape}."
      )
    x = _standardised(x, self.mean, self.std)
    sigma = jnp.broadcast_to(sigma, x.shape[:1])
    temb = FourierEmbedding(_EMBEDDING, name="fourier")(sigma)
    temb = Dense(4 * _EMBEDDING, dtype=self.dtype, name="temb_dense0")(temb)
    temb = Dense(4 * _EMBEDDING, dtype=self.dtype, name="temb_dense1")(
      nn.swish(temb)
    )
    h = _conv(16, 1, self.dtype, "conv_in")(x)
    for i, width in enumerate((16, 32, 64)):
      for j in range(self.blocks_per_group):
        h = WideBlock(
          width * self.channel_multiplier,
          stride=2 if i > 0 and j == 0 else 1,
          activate_shortcut=i == j == 0,
          dtype=self.dtype,
          name=f"group_{i}_block_{j}",
        )(h, temb)
    h = _activated(h, "norm_out", jnp.float32).mean((1, 2))
    return Dense(
      self.num_classes, kernel_init=_uniform_by_fan_out, name="dense_out"
    )(h)


def _standardised(
  x: Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> Array:
  """x by the data's statistics, then each image to mean 0 and variance 1."""
  x = (x - jnp.asarray(mean)[None, None, None]) / jnp.asarray(std)[
    None, None, None
  ]
  axes = (1, 2, 3)
  least = x[0].size ** -0.5
  deviation = jnp.maximum(x.std(axes, keepdims=True), least)
  return (x - x.mean(axes, keepdims=True)) / deviation


def _activated(x: Array, name: str, dtype: DTypeLike) -> Array:
  groups = min(x.shape[-1] // 4, 32)
  return nn.relu(GroupNorm(groups, epsilon=1e-5, dtype=dtype, name=name)(x))


def _conv(features: int, stride: int, dtype: DTypeLike, name: str) -> nn.Conv:
  return nn.Conv(
    features,
    (3, 3),
    strides=stride,
    use_bias=False,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    dtype=dtype,
    name=name,
  )


def _uniform_by_fan_out(key, shape, dtype=jnp.float32):
  uniform = nn.initializers.uniform(2.0)(key, shape, dtype) - 1
  return uniform / shape[1] ** 0.5
