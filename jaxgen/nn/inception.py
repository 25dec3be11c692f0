"""Inception-v3 (Szegedy et al. 2016) as FID's weights have it.

FID, the Inception Score and their relatives are defined by one set of weights,
TensorFlow's graph of 2015-12-05. It has 1008 classes, its average pools do not
count the padding, and its last block pools by the maximum. The names are those
of the PyTorch port of the weights (pytorch-fid, torch-fidelity): Mixed_5b, ...,
Mixed_7c are mixed, mixed_1, ..., mixed_10 of the graph.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.types import Array

# Scores must not depend on the device: by default GPUs and TPUs round the
# factors of float32 products.
EXACT = jax.lax.Precision.HIGHEST


class Taps(NamedTuple):
  """What metrics read from the network, all float32.

  Attributes:
    pool: `[B, 2048]`, `pool_3` of the graph: FID (Heusel et al. 2017).
    spatial: `[B, h, w, 7]`, the first channels of `mixed_6/conv`: sFID (Nash
      et al. 2021); h = w = 17 for images of 299 x 299.
    logits_unbiased: `[B, 1008]`, pool W without the bias, which the code of
      the Inception Score (Salimans et al. 2016) leaves out.
    logits: `[B, 1008]`, pool W + b.
    mean_64: `[B, 64]`, mean over positions after the first maximum pool.
    mean_192: `[B, 192]`, likewise after the second.
    mean_768: `[B, 768]`, likewise after Mixed_6e.
  """

  pool: Array
  spatial: Array
  logits_unbiased: Array
  logits: Array
  mean_64: Array
  mean_192: Array
  mean_768: Array


class BatchNorm(nn.Module):
  """Batch normalisation by stored statistics (Ioffe & Szegedy 2015).

  y = (x - mean) / sqrt(var + 1e-3) * scale + bias.
  """

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises the channels of x `[B, H, W, C]`."""
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    scale, bias, mean, var = (
      self.param(name, start, (x.shape[-1],))[None, None, None]
      for name, start in (
        *(("scale", ones), ("bias", zeros)),
        *(("mean", zeros), ("var", ones)),
      )
    )
    factor = scale * jax.lax.rsqrt(var + 1e-3)
    shift = bias - mean * factor
    return x * factor.astype(x.dtype) + shift.astype(x.dtype)


class ConvBN(nn.Module):
  """Convolution without bias, batch normalisation, ReLU.

  Attributes:
    features: output channels.
    size: height and width of the kernel.
    stride: of both axes.
    padding: 'SAME' or 'VALID'.
    dtype: of the computation; parameters are float32.
  """

  features: int
  size: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: str = "SAME"
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H', W', features]`."""
    x = nn.Conv(
      self.features,
      self.size,
      self.stride,
      self.padding,
      use_bias=False,
      dtype=self.dtype,
      precision=EXACT,
      name="conv",
    )(x)
    return nn.relu(BatchNorm(name="bn")(x))


class BlockA(nn.Module):
  """Mixed_5b, 5c, 5d: Figure 5 of the paper, with 5 x 5 kept in one branch."""

  pool_features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H, W, 224 + pool_features]`."""
    conv = partial(ConvBN, dtype=self.dtype)
    a = conv(64, name="branch1x1")(x)
    b = conv(48, name="branch5x5_1")(x)
    b = conv(64, (5, 5), name="branch5x5_2")(b)
    c = conv(64, name="branch3x3dbl_1")(x)
    c = conv(96, (3, 3), name="branch3x3dbl_2")(c)
    c = conv(96, (3, 3), name="branch3x3dbl_3")(c)
    d = conv(self.pool_features, name="branch_pool")(average_pool(x))
    return jnp.concatenate([a, b, c, d], axis=-1)


class BlockB(nn.Module):
  """Mixed_6a: halves height and width, Figure 10."""

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, (H - 1) / 2, (W - 1) / 2, 480 + C]`."""
    conv = partial(ConvBN, dtype=self.dtype)
    a = conv(384, (3, 3), 2, "VALID", name="branch3x3")(x)
    b = conv(64, name="branch3x3dbl_1")(x)
    b = conv(96, (3, 3), name="branch3x3dbl_2")(b)
    b = conv(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(b)
    return jnp.concatenate([a, b, halving_pool(x)], axis=-1)


class BlockC(nn.Module):
  """Mixed_6b, ..., 6e: 7 x 7 as 1 x 7 and 7 x 1, Figure 6.

  Attributes:
    mid_features: channels inside the branches.
    dtype: of the computation.
  """

  mid_features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H, W, 768]`."""
    conv, mid = partial(ConvBN, dtype=self.dtype), self.mid_features
    a = conv(192, name="branch1x1")(x)
    b = conv(mid, name="branch7x7_1")(x)
    b = conv(mid, (1, 7), name="branch7x7_2")(b)
    b = conv(192, (7, 1), name="branch7x7_3")(b)
    c = conv(mid, name="branch7x7dbl_1")(x)
    c = conv(mid, (7, 1), name="branch7x7dbl_2")(c)
    c = conv(mid, (1, 7), name="branch7x7dbl_3")(c)
    c = conv(mid, (7, 1), name="branch7x7dbl_4")(c)
    c = conv(192, (1, 7), name="branch7x7dbl_5")(c)
    d = conv(192, name="branch_pool")(average_pool(x))
    return jnp.concatenate([a, b, c, d], axis=-1)


class BlockD(nn.Module):
  """Mixed_7a: halves height and width."""

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, (H - 1) / 2, (W - 1) / 2, 512 + C]`."""
    conv = partial(ConvBN, dtype=self.dtype)
    a = conv(192, name="branch3x3_1")(x)
    a = conv(320, (3, 3), 2, "VALID", name="branch3x3_2")(a)
    b = conv(192, name="branch7x7x3_1")(x)
    b = conv(192, (1, 7), name="branch7x7x3_2")(b)
    b = conv(192, (7, 1), name="branch7x7x3_3")(b)
    b = conv(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(b)
    return jnp.concatenate([a, b, halving_pool(x)], axis=-1)


class BlockE(nn.Module):
  """Mixed_7b, 7c: 3 x 3 as 1 x 3 beside 3 x 1, Figure 7.

  Attributes:
    maximum_pool: in place of the average pool, as Mixed_7c of these weights.
    dtype: of the computation.
  """

  maximum_pool: bool
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H, W, 2048]`."""
    conv = partial(ConvBN, dtype=self.dtype)
    a = conv(320, name="branch1x1")(x)
    b = conv(384, name="branch3x3_1")(x)
    b1 = conv(384, (1, 3), name="branch3x3_2a")(b)
    b2 = conv(384, (3, 1), name="branch3x3_2b")(b)
    c = conv(448, name="branch3x3dbl_1")(x)
    c = conv(384, (3, 3), name="branch3x3dbl_2")(c)
    c1 = conv(384, (1, 3), name="branch3x3dbl_3a")(c)
    c2 = conv(384, (3, 1), name="branch3x3dbl_3b")(c)
    if self.maximum_pool:
      d = nn.max_pool(x, (3, 3), padding="SAME")
    else:
      d = average_pool(x)
    d = conv(192, name="branch_pool")(d)
    return jnp.concatenate([a, b1, b2, c1, c2, d], axis=-1)


class Classifier(nn.Module):
  """The logits without and with the bias."""

  features: int

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """Maps x `[B, C]` to x W and x W + b, `[B, features]` each."""
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    unbiased = jnp.dot(x, kernel, precision=EXACT)
    return unbiased, unbiased + bias[None]


class Inception(nn.Module):
  """FID's Inception-v3, for inference.

  Attributes:
    dtype: of the computation. Parameters, the means over positions and the
      logits are float32.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Taps:
    """The features of images.

    Args:
      x: `[B, H, W, 3]` in [-1, 1], as a rule 299 x 299; at least 75 x 75.

    Raises:
      ValueError: if x is smaller or of another shape.
    """
    if x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < 75:
      raise ValueError(
        "Inception needs x of shape [B, H, W, 3], H and W at least 75, got "
        f"{x.shape}."
      )
    conv = partial(ConvBN, dtype=self.dtype)
    x = conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
    x = within(conv(32, (3, 3), name="Conv2d_2a_3x3")(x))
    x = conv(64, (3, 3), name="Conv2d_2b_3x3")(x)
    x = halving_pool(x)
    mean_64 = position_mean(x)
    x = conv(80, name="Conv2d_3b_1x1")(x)
    x = within(conv(192, (3, 3), name="Conv2d_4a_3x3")(x))
    x = halving_pool(x)
    mean_192 = position_mean(x)
    x = BlockA(32, self.dtype, name="Mixed_5b")(x)
    x = BlockA(64, self.dtype, name="Mixed_5c")(x)
    x = BlockA(64, self.dtype, name="Mixed_5d")(x)
    x = BlockB(self.dtype, name="Mixed_6a")(x)
    x = BlockC(128, self.dtype, name="Mixed_6b")(x)
    x = BlockC(160, self.dtype, name="Mixed_6c")(x)
    x = BlockC(160, self.dtype, name="Mixed_6d")(x)
    spatial = x[..., :7]  # of its first branch, mixed_6/conv
    x = BlockC(192, self.dtype, name="Mixed_6e")(x)
    mean_768 = position_mean(x)
    x = BlockD(self.dtype, name="Mixed_7a")(x)
    x = BlockE(False, self.dtype, name="Mixed_7b")(x)
    x = BlockE(True, self.dtype, name="Mixed_7c")(x)
    pool = position_mean(x)
    unbiased, logits = Classifier(1008, name="fc")(pool)
    return Taps(
      pool=pool,
      spatial=spatial.astype(jnp.float32),
      logits_unbiased=unbiased,
      logits=logits,
      mean_64=mean_64,
      mean_192=mean_192,
      mean_768=mean_768,
    )


def within(x: Array) -> Array:
  """A 'SAME' 3 x 3 convolution x `[B, H, W, C]`, but 'VALID'.

  XLA's convolutions on CPUs are several times slower without any padding.
  """
  return x[:, 1:-1, 1:-1]


def average_pool(x: Array) -> Array:
  """3 x 3 means of x `[B, H, W, C]`, at the border of fewer values."""
  for window in ((3, 1), (1, 3)):  # faster than both at once
    x = nn.avg_pool(x, window, padding="SAME", count_include_pad=False)
  return x


def halving_pool(x: Array) -> Array:
  """3 x 3 maxima at every second position that has all neighbours."""
  return nn.max_pool(nn.max_pool(x, (3, 1), (2, 1)), (1, 3), (1, 2))


def position_mean(x: Array) -> Array:
  """`[B, H, W, C]` -> `[B, C]`, float32."""
  return x.astype(jnp.float32).mean((1, 2))
