"""DINO's vision transformer, another teacher of BEiT v2's tokenizer.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers".
Its blocks are BEiT's without LayerScale and relative positions.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nn.beit import Beit
from jaxgen.nn.clip_vision import VisionFeatures
from jaxgen.nn.vit import layer_norm
from jaxgen.nn.vqkd import plain_vit
from jaxgen.types import Array


class Dino(nn.Module):
  """A plain vision transformer with a last normalisation.

  DINO's attention also adds a bias to the keys. It adds the same number,
  q.b, to all logits of a query, which the softmax does not see, so that there
  is no such parameter here.

  Attributes:
    backbone: without a mask token.
  """

  backbone: Beit

  @nn.compact
  def __call__(self, x: Array) -> VisionFeatures:
    """The normalised tokens of images `[B, H, W, 3]`, float32.

    Args:
      x: from `jaxgen.nn.vqkd.teacher_images` with ImageNet's colours.
    """
    h = self.backbone(x)[-1]
    h = layer_norm("norm")(h.astype(jnp.float32))
    return VisionFeatures(h[:, 1:], h[:, 0])


# Caron et al. 2021, Table 1: ViT-S and ViT-B, by the size of a patch.
DINOS = {
  "vit_s_16": Dino(plain_vit(384, 12, 6, 1536, 16)),
  "vit_s_8": Dino(plain_vit(384, 12, 6, 1536, 8)),
  "vit_b_16": Dino(plain_vit(768, 12, 12, 3072, 16)),
  "vit_b_8": Dino(plain_vit(768, 12, 12, 3072, 8)),
}
