"""Segmentation with progressive upsampling: SETR-PUP, the head of BEiT's paper.

Zheng et al. 2021, "Rethinking Semantic Segmentation from a Sequence-to-Sequence
Perspective with Transformers", section 3.2; Bao et al. 2022, "BEiT", Table 3.
BEiT's release has UPerNet alone (`jaxgen.nn.segmentation`): layers and
auxiliary heads are those of mmsegmentation's configuration for ADE20K.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.beit import Beit
from jaxgen.nn.beit3_tasks import ImageBackbone
from jaxgen.nn.layers import Dense
from jaxgen.nn.segmentation import ConvNorm, feature_maps, resize
from jaxgen.types import Array


class UpsamplingHead(nn.Module):
  """LN; for every scale a 3 x 3 convolution, BN, relu, enlarged; a classifier.

  Attributes:
    num_classes: labels.
    scales: how many times larger each layer makes its map, bilinearly, corners
      not aligned.
    channels: of the layers.
    dtype: of the convolutions; the logits are float32.
  """

  num_classes: int
  scales: tuple[int, ...]
  channels: int = 256
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Logits `[B, s H, s W, num_classes]` of x `[B, H, W, C]`, s all scales."""
    x = nn.LayerNorm(
      1e-6, dtype=self.dtype, use_fast_variance=False, name="norm"
    )(x)
    for i, scale in enumerate(self.scales):
      layer = ConvNorm(self.channels, 3, self.dtype, name=f"up_{i}")
      x = layer(x, train)
      x = resize(x, scale * x.shape[1], scale * x.shape[2])
    return Dense(self.num_classes, name="classifier")(x.astype(jnp.float32))


class ProgressiveSegmenter(nn.Module):
  """A backbone with SETR-PUP: logits of every pixel, by steps of 2.

  Attributes:
    backbone: see `jaxgen.nn.segmentation.Segmenter`; its patches have a power
      of two pixels a side, 4 at least.
    num_classes: labels.
    levels: the blocks, from 0, whose outputs are the feature maps, none
      normalised: of the last the main head makes its logits, of the others an
      auxiliary head each, in two steps.
  """

  backbone: Beit | ImageBackbone
  num_classes: int = 150
  levels: tuple[int, ...] = (4, 7, 9, 11)

  @nn.compact
  def __call__(
    self, x: Array, train: bool = False
  ) -> tuple[Array, tuple[Array, ...]]:
    """Logits of images `[B, H, W, 3]`, float32 `[B, H, W, num_classes]`.

    Args:
      x: images whose height and width are multiples of a patch's.
      train: with batch statistics of the normalisations; needs the rng
        "drop_path" where the backbone has it.

    Returns:
      (those of the main head, those of the auxiliary heads).

    Raises:
      ValueError: patches are of another size.
    """
    p, dtype = self.backbone.patch_size, self.backbone.dtype
    steps = round(math.log2(p))
    if steps < 2 or 2**steps != p:
      raise ValueError(
        f"SETR-PUP needs patches of 4, 8, 16, ... pixels a side, got {p}."
      )
    *lower, top = feature_maps(self.backbone, x, self.levels, train)
    head = lambda scales, name: UpsamplingHead(
      self.num_classes, scales, dtype=dtype, name=name
    )
    logits = head((2,) * steps, "decode_head")(top, train)
    others = [
      head((4, p // 4), f"auxiliary_head_{i}")(h, train)
      for i, h in enumerate(lower)
    ]
    return logits, tuple(others)
