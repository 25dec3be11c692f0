"""The blocks of NCSN and NCSNv2: a ResNet's and a RefineNet's.

Song & Ermon 2019, App. A, after Lin et al. 2017. `num_classes` of a block is
the number of noise levels that have a normalisation of their own; None is the
unconditional network of NCSNv2.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxgen.nn import resample
from jaxgen.types import Array

_ADAPT_UNITS = 2  # residual units on each map before they are joined
_LAST_UNITS = 3  # after it, in the block at full resolution; elsewhere one
_POOLS = 2  # of chained residual pooling


class Conv(nn.Module):
  """Convolution that keeps height and width, initialised as PyTorch's.

  Weights and biases are uniform in +-1 / sqrt(fan_in).

  Attributes:
    features: output channels.
    kernel_size: height and width of the kernel.
    dilation: distance of its taps.
    use_bias: whether it adds a bias.
    dtype: of the computation; parameters are float32.
  """

  features: int
  kernel_size: int = 3
  dilation: int = 1
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves x `[B, H, W, C]`."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    kernel = self.param("kernel", uniform, shape)
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      window_strides=(1, 1),
      padding="SAME",
      rhs_dilation=(self.dilation, self.dilation),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    if not self.use_bias:
      return y
    # One row of a kernel: the bound depends on the kernel's fan-in.
    bias = self.param(
      "bias", lambda key, _: uniform(key, shape)[0, 0, 0], (self.features,)
    )
    return y + bias.astype(self.dtype)[None, None, None]


class InstanceNormPlus(nn.Module):
  """Instance normalisation that keeps the means (Song & Ermon 2019, App. A).

  With mu_k and s_k the mean and standard deviation of channel k over the
  positions, m and v those of mu over the channels,

    gamma_k ((x_k - mu_k) / s_k + alpha_k (mu_k - m) / v) + beta_k,

  as in the published code; the paper's formula has gamma on the first term
  alone.

  Attributes:
    num_classes: number of sets of gamma, alpha and beta; None is one set that
      needs no label.
    dtype: of the output; statistics are float32.
  """

  num_classes: int | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, labels: Array) -> Array:
    """Normalises x `[B, H, W, C]`, labels being `[B]`."""
    x = x.astype(jnp.float32)
    means = x.mean((1, 2))
    spread = means.var(-1, ddof=1, keepdims=True)
    centred = means - means.mean(-1, keepdims=True)
    between = centred * jax.lax.rsqrt(spread + 1e-5)
    within = x - means[:, None, None]
    variances = jnp.square(within).mean((1, 2), keepdims=True)
    within = within * jax.lax.rsqrt(variances + 1e-5)
    gamma, alpha, beta = self._affine(x.shape[-1], labels)
    y = gamma * (within + alpha * between[:, None, None]) + beta
    return y.astype(self.dtype)

  def _affine(self, channels: int, labels: Array) -> list[Array]:
    """gamma, alpha and beta, shaped to broadcast against `[B, H, W, C]`."""
    if self.num_classes is None:
      vectors = [
        self.param("gamma", _near_one, (channels,))[None],
        self.param("alpha", _near_one, (channels,))[None],
        self.param("beta", nn.initializers.zeros, (channels,))[None],
      ]
    else:
      shape = (self.num_classes, 3 * channels)
      table = self.param("embedding", _embedding, shape)
      vectors = jnp.split(table[labels], 3, axis=-1)
    return [v[:, None, None] for v in vectors]


def _near_one(key, shape):
  return 1 + 0.02 * jax.random.normal(key, shape)


def _embedding(key, shape):
  channels = shape[1] // 3
  ones = _near_one(key, (shape[0], 2 * channels))
  return jnp.pad(ones, ((0, 0), (0, channels)))


class ResBlock(nn.Module):
  """Two normalised 3 x 3 convolutions and a shortcut.

  Attributes:
    features: output channels.
    pool: halve height and width by the mean of 2 x 2 pixels.
    dilation: of the convolutions.
    project: convolve the shortcut, as blocks do that widen or lead a stage.
    num_classes: of the normalisation.
    dtype: of the computation; parameters are float32.
  """

  features: int
  pool: bool = False
  dilation: int = 1
  project: bool = False
  num_classes: int | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, labels: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H', W', features]`."""

    def normed(x, name):
      norm = InstanceNormPlus(self.num_classes, self.dtype, name=name)
      return nn.elu(norm(x, labels))

    def convolved(x, features, size, name):
      dilation = self.dilation if size == 3 else 1
      return Conv(features, size, dilation, dtype=self.dtype, name=name)(x)

    # The first block of a stage widens in its second convolution.
    hidden = x.shape[-1] if self.project else self.features
    h = convolved(normed(x, "norm1"), hidden, 3, "conv1")
    h = convolved(normed(h, "norm2"), self.features, 3, "conv2")
    if self.project:
      x = convolved(x, self.features, 1 if self.pool else 3, "shortcut")
    if self.pool:
      h, x = resample.downsample(h), resample.downsample(x)
    return x + h


class ResidualUnits(nn.Module):
  """RefineNet's residual convolution units: two 3 x 3 convolutions each.

  Attributes:
    num_units: number of units.
    num_classes: of the normalisation; None omits it.
    dtype: of the computation; parameters are float32.
  """

  num_units: int
  num_classes: int | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, labels: Array) -> Array:
    """Maps x `[B, H, W, C]` to its own shape."""
    for i in range(self.num_units):
      h = x
      for j in range(2):
        if self.num_classes is not None:
          norm = InstanceNormPlus(
            self.num_classes, self.dtype, name=f"norm_{i}_{j}"
          )
          h = norm(h, labels)
        h = Conv(
          x.shape[-1], use_bias=False, dtype=self.dtype, name=f"conv_{i}_{j}"
        )(nn.elu(h))
      x = x + h
    return x


class RefineBlock(nn.Module):
  """RefineNet's block (Lin et al. 2017): joins maps of two sizes.

  Residual units on each map, the sum of the convolved maps at the size of the
  first, chained residual pooling and residual units.

  Attributes:
    features: output channels.
    last: whether it is the block at full resolution, with more units.
    num_classes: of the normalisation. None omits it, and pools by the maximum
      in place of the mean.
    dtype: of the computation; parameters are float32.
  """

  features: int
  last: bool = False
  num_classes: int | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, xs: Sequence[Array], labels: Array) -> Array:
    """Maps xs, the first the largest, to `[B, H, W, features]`."""

    def normed(x, name):
      if self.num_classes is None:
        return x
      norm = InstanceNormPlus(self.num_classes, self.dtype, name=name)
      return norm(x, labels)

    def units(x, num_units, name):
      module = ResidualUnits(num_units, self.num_classes, self.dtype, name=name)
      return module(x, labels)

    hs = [units(x, _ADAPT_UNITS, f"adapt_{k}") for k, x in enumerate(xs)]
    h = hs[0]
    if len(hs) > 1:
      size = h.shape[1:3]
      h = sum(
        _stretch(
          Conv(self.features, dtype=self.dtype, name=f"join_conv_{k}")(
            normed(h, f"join_norm_{k}")
          ),
          size,
        )
        for k, h in enumerate(hs)
      )
    pool = nn.max_pool if self.num_classes is None else nn.avg_pool
    path = h = nn.elu(h)
    for k in range(_POOLS):
      path = normed(path, f"pool_norm_{k}")
      path = pool(path, (5, 5), padding=((2, 2), (2, 2)))
      path = Conv(
        self.features, use_bias=False, dtype=self.dtype, name=f"pool_conv_{k}"
      )(path)
      h = h + path
    return units(h, _LAST_UNITS if self.last else 1, "output")


def _stretch(x: Array, size: tuple[int, int]) -> Array:
  """Bilinear interpolation that maps corner pixels to corner pixels."""
  for axis, n in zip((1, 2), size, strict=True):
    if x.shape[axis] == n:
      continue
    at = np.linspace(0, x.shape[axis] - 1, n)
    low = np.minimum(at.astype(int), max(x.shape[axis] - 2, 0))
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = n
    weight = jnp.asarray((at - low).reshape(shape), x.dtype)
    x = (1 - weight) * x.take(low, axis) + weight * x.take(high, axis)
  return x
