"""CLIP's vision transformer, the teacher of BEiT v2's tokenizer.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision", section 2.4: a vision transformer with one more normalisation
before its blocks.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.clip_text import Activation, ClipBlock, layer_norm
from jaxgen.nn.vit import PatchEmbedding
from jaxgen.types import Array


class VisionFeatures(NamedTuple):
  """What a vision transformer says of images.

  Attributes:
    patches: `[B, N, D]`, one vector a patch. CLIP was not trained on them, but
      BEiT v2's tokenizer is (Peng et al. 2022).
    pooled: `[B, D]`, of the class token: CLIP's embedding of the image.
  """

  patches: Array
  pooled: Array


class ClipVision(nn.Module):
  """CLIP's vision transformer; the defaults are ViT-B/16's at 224 pixels.

  Attributes:
    patch_size: height and width of a patch.
    width: channels.
    num_layers: blocks.
    num_heads: heads of the attention.
    mlp_width: channels between a block's dense layers.
    projection: D, channels of the space that texts share.
    activation: the nonlinearity, `quick_gelu` or the exact GELU.
    dtype: of attention and dense layers. Parameters, normalisation statistics,
      softmax and the output are float32.
  """

  patch_size: int = 16
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_width: int = 3072
  projection: int = 512
  activation: Activation = "quick_gelu"
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> VisionFeatures:
    """The features of images `[B, H, W, 3]`, of N = (H / P) (W / P) patches.

    LN(x_L) W of every token, the last normalisation and the projection W being
    those that CLIP applies to its class token.

    Args:
      x: from `jaxgen.nn.vqkd.teacher_images` with CLIP's colours.

    Raises:
      ValueError: if x does not fit, or the heads do not divide the width.
    """
    self._check(x)
    scale = self.width**-0.5
    normal = nn.initializers.normal(scale)
    patches = PatchEmbedding(
      self.patch_size,
      self.width,
      self.dtype,
      use_bias=False,
      name="patch_embedding",
    )(x)
    cls = self.param("class_embedding", normal, (self.width,))
    cls = jnp.broadcast_to(cls[None, None], (len(x), 1, self.width))
    h = jnp.concatenate([cls.astype(patches.dtype), patches], axis=1)
    positions = self.param("position_embedding", normal, h.shape[1:])
    h = h + positions[None].astype(h.dtype)
    h = layer_norm("norm_in", self.dtype)(h)
    for i in range(self.num_layers):
      h = ClipBlock(
        self.num_heads,
        self.mlp_width,
        self.num_layers,
        self.activation,
        self.dtype,
        causal=False,
        name=f"block_{i}",
      )(h)
    h = layer_norm("norm_out")(h)
    shape = (self.width, self.projection)
    h = h @ self.param("projection_kernel", normal, shape)
    return VisionFeatures(h[:, 1:], h[:, 0])

  def _check(self, x: Array) -> None:
    p = self.patch_size
    if x.ndim != 4 or x.shape[3] != 3 or x.shape[1] % p or x.shape[2] % p:
      raise ValueError(
        f"ClipVision needs images [B, H, W, 3] with H and W divisible by {p}, "
        f"got {x.shape}."
      )
    if self.width % self.num_heads:
      raise ValueError(
        f"ClipVision needs a width divisible by its {self.num_heads} heads, "
        f"got {self.width}."
      )


_LARGE = ClipVision(
  patch_size=14,
  width=1024,
  num_layers=24,
  num_heads=16,
  mlp_width=4096,
  projection=768,
)
# Radford et al. 2021, Table 20; the image's size is 224, or as it says.
CLIP_VISIONS = {
  "vit_b_32": ClipVision(patch_size=32),
  "vit_b_16": ClipVision(),
  "vit_l_14": _LARGE,
  "vit_l_14_336": _LARGE,
}
