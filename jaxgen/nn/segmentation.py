"""Semantic segmentation with BEiT: feature pyramid, UPerNet, auxiliary head.

Bao et al. 2022, "BEiT", section 3.2 and App. C; Xiao et al. 2018, "Unified
Perceptual Parsing for Scene Understanding". All resizing is bilinear, corners
not aligned.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxgen.nn.batch_norm import BatchNorm
from jaxgen.nn.beit import Beit
from jaxgen.nn.beit3_tasks import ImageBackbone
from jaxgen.nn.convolution import conv
from jaxgen.nn.layers import Dense, gelu
from jaxgen.nn.openai_blocks import fan_in_uniform
from jaxgen.types import Array

POOLS = (1, 2, 3, 6)


def resize(x: Array, height: int, width: int) -> Array:
  """Bilinear: `[B, H, W, C]` -> `[B, height, width, C]`."""
  shape = (x.shape[0], height, width, x.shape[3])
  return jax.image.resize(x, shape, "bilinear", antialias=False)


def pool_to(x: Array, size: int) -> Array:
  """Means of size x size bins: `[B, H, W, C]` -> `[B, size, size, C]`.

  Bin i of n positions is from floor(i n / size) up to ceil((i + 1) n / size);
  neighbours overlap where size does not divide n.
  """
  rows, columns = (jnp.asarray(_bins(n, size)) for n in x.shape[1:3])
  return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)


def _bins(n: int, size: int) -> np.ndarray:
  i, at = np.arange(size)[:, None], np.arange(n)
  inside = (at >= i * n // size) & (at < -((-(i + 1) * n) // size))
  return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


class ConvNorm(nn.Module):
  """A convolution without bias, batch normalisation, relu.

  Attributes:
    features: output channels.
    size: height and width of the kernel.
    dtype: of the convolution; parameters are float32.
  """

  features: int
  size: int = 1
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H, W, features]`."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    x = conv(x.astype(self.dtype), kernel.astype(self.dtype))
    return jax.nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train))


class Upsample(nn.Module):
  """A transposed convolution of 2 x 2 pixels and stride 2.

  y[2 i + a, 2 j + b] = W[a, b] x[i, j] + bias.

  Attributes:
    dtype: of the computation; parameters are float32.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, 2 H, 2 W, C]`."""
    b, h, w, c = x.shape
    init = fan_in_uniform(4 * c)
    kernel = self.param("kernel", init, (2, 2, c, c)).astype(self.dtype)
    bias = self.param("bias", init, (c,)).astype(self.dtype)
    y = jnp.einsum("bhwc,ijdc->bhiwjd", x.astype(self.dtype), kernel)
    return y.reshape(b, 2 * h, 2 * w, c) + bias[None, None, None]


class Pyramid(nn.Module):
  """Feature maps of one size -> of strides 4, 8, 16 and 32, for patches of 16.

  Attributes:
    dtype: of the computation.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, maps: Sequence[Array], train: bool) -> list[Array]:
    """Maps four of `[B, H, W, C]` to 4, 2, 1 and 1/2 times the size."""
    first, second, third, fourth = maps
    first = Upsample(self.dtype, name="fpn1_up1")(first)
    first = BatchNorm(dtype=self.dtype, name="fpn1_bn")(first, train)
    first = Upsample(self.dtype, name="fpn1_up2")(gelu(first))
    second = Upsample(self.dtype, name="fpn2_up")(second)
    return [first, second, third, nn.max_pool(fourth, (2, 2), (2, 2))]


class UPerHead(nn.Module):
  """UPerNet's head: pyramid pooling on the top, then a feature pyramid.

  Attributes:
    channels: of all its layers.
    num_classes: labels.
    dropout: rate before the last layer, of whole channels.
    dtype: of the convolutions; the logits are float32.
  """

  channels: int
  num_classes: int
  dropout: float = 0.1
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, maps: Sequence[Array], train: bool) -> Array:
    """Logits `[B, H, W, num_classes]` of maps, the largest `[B, H, W, C]`."""
    layer = lambda size, name: ConvNorm(
      self.channels, size, self.dtype, name=name
    )
    *lower, top = maps
    pooled = [top]
    for i, size in enumerate(POOLS):
      y = layer(1, f"pool_{i}")(pool_to(top, size), train)
      pooled.append(resize(y, *top.shape[1:3]))
    top = layer(3, "bottleneck")(jnp.concatenate(pooled, -1), train)

    h = [layer(1, f"lateral_{i}")(m, train) for i, m in enumerate(lower)]
    h.append(top)
    for i in reversed(range(len(lower))):
      h[i] = h[i] + resize(h[i + 1], *h[i].shape[1:3])
    for i in range(len(lower)):
      h[i] = layer(3, f"fpn_{i}")(h[i], train)
    h = [resize(m, *h[0].shape[1:3]) for m in h]
    y = layer(3, "fpn_bottleneck")(jnp.concatenate(h, -1), train)
    y = nn.Dropout(self.dropout, (1, 2), deterministic=not train)(y)
    return Dense(self.num_classes, name="classifier")(y.astype(jnp.float32))


class FCNHead(nn.Module):
  """A 3 x 3 convolution and a classifier, of one feature map.

  Attributes:
    num_classes: labels.
    channels: between the two.
    dropout: rate before the last layer, of whole channels.
    dtype: of the convolution; the logits are float32.
  """

  num_classes: int
  channels: int = 256
  dropout: float = 0.1
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Logits `[B, H, W, num_classes]` of x `[B, H, W, C]`."""
    y = ConvNorm(self.channels, 3, self.dtype, name="conv")(x, train)
    y = nn.Dropout(self.dropout, (1, 2), deterministic=not train)(y)
    return Dense(self.num_classes, name="classifier")(y.astype(jnp.float32))


def feature_maps(
  backbone: Beit | ImageBackbone, x: Array, levels: Sequence[int], train: bool
) -> list[Array]:
  """Blocks' outputs as maps `[B, H / P, W / P, C]`, without the class token."""
  p = backbone.patch_size
  shape = (x.shape[0], x.shape[1] // p, x.shape[2] // p, -1)
  outputs = backbone(x, None, not train)
  return [outputs[i][:, 1:].reshape(shape) for i in levels]


class Segmenter(nn.Module):
  """BEiT with UPerNet, as on ADE20K; or BEiT-3's image half in BEiT's place.

  Attributes:
    backbone: BEiT without a mask token and with biases "per_block"; or what
      returns the outputs of its blocks as BEiT does.
    num_classes: labels.
    levels: the blocks, from 0, whose outputs are the feature maps, none
      normalised: every third of BEiT-B's 12, every sixth of BEiT-L's 24, from
      the third last block count.
  """

  backbone: Beit | ImageBackbone
  num_classes: int = 150
  levels: tuple[int, int, int, int] = (3, 5, 7, 11)

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
    """Logits of images `[B, H, W, 3]`.

    Args:
      x: images whose height and width are multiples of twice a patch's.
      train: with dropout, and batch statistics of the normalisations; needs
        the rng "dropout", and "drop_path" where the backbone has it.

    Returns:
      (logits at stride 4, those of the auxiliary head at stride 16), float32,
      for patches of 16 pixels.
    """
    dtype = self.backbone.dtype
    maps = feature_maps(self.backbone, x, self.levels, train)
    maps = Pyramid(dtype, name="pyramid")(maps, train)
    head = UPerHead(
      self.backbone.width, self.num_classes, dtype=dtype, name="decode_head"
    )
    auxiliary = FCNHead(self.num_classes, dtype=dtype, name="auxiliary_head")
    return head(maps, train), auxiliary(maps[2], train)


def slide(
  predict: Callable[[Array], Array], x: Array, crop: int, stride: int
) -> Array:
  """Logits of large images, from windows (the test of Bao et al. 2022).

  Windows stand `stride` apart, the last ones at the edges; where they overlap
  their logits are averaged.

  Args:
    predict: `[B, crop, crop, C]` -> logits `[B, crop, crop, K]`.
    x: images `[B, H, W, C]`, not smaller than the crop.
    crop: height and width of a window; 512 or 640 in the paper.
    stride: between windows, at most the crop; 341 or 426.

  Returns:
    `[B, H, W, K]`.

  Raises:
    ValueError: the images are smaller than a window, or windows leave gaps.
  """
  h, w = x.shape[1:3]
  if min(h, w) < crop or not 1 <= stride <= crop:
    raise ValueError(
      f"slide needs images of at least {crop} x {crop} and a stride in "
      f"[1, {crop}], got {h} x {w} and {stride}"
    )
  window = jax.eval_shape(predict, x[:, :crop, :crop])
  total = jnp.zeros((*x.shape[:3], window.shape[-1]), window.dtype)
  count = np.zeros((h, w), np.float32)
  for top in window_starts(h, crop, stride):
    for left in window_starts(w, crop, stride):
      rows, columns = slice(top, top + crop), slice(left, left + crop)
      total = total.at[:, rows, columns].add(predict(x[:, rows, columns]))
      count[rows, columns] += 1
  return total / count[None, :, :, None]


def window_starts(length: int, crop: int, stride: int) -> list[int]:
  """Where windows begin along a side: `stride` apart, the last at the end."""
  steps = -(-(length - crop) // stride)
  return [min(i * stride, length - crop) for i in range(steps + 1)]
