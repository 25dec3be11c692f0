"""What turns a condition into an input of latent diffusion's U-Net.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models", App. E: the cheap ones, for labels and maps. They are trained with the
U-Net.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nn.openai_blocks import downsample, embed, linear
from jaxgen.types import Array


class ClassEmbedder(nn.Module):
  """A label as a context of one token.

  Attributes:
    num_classes: labels. Networks trained for classifier-free guidance have one
      more than the data, the last, which says nothing (Ho & Salimans 2022).
    features: size of the token.
  """

  num_classes: int = 1001
  features: int = 512

  @nn.compact
  def __call__(self, y: Array) -> Array:
    """Maps labels y `[B]` to `[B, 1, features]`.

    Raises:
      ValueError: if y has another shape.
    """
    y = jnp.asarray(y)
    if y.ndim != 1:
      raise ValueError(f"ClassEmbedder needs y of shape [B], got {y.shape}.")
    return embed(y[:, None], self.num_classes, self.features, "embedding")


class SpatialRescaler(nn.Module):
  """A map, such as a segmentation's one-hot classes, at the size of latents.

  Each stage halves height and width bilinearly, which is means of 2 x 2
  pixels; a matrix then maps the channels.

  Attributes:
    num_stages: how often to halve.
    features: output channels.
  """

  num_stages: int = 2
  features: int = 3

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to `[B, H / 2^n, W / 2^n, features]`.

    Raises:
      ValueError: if the height or width does not divide.
    """
    rate = 2**self.num_stages
    if x.ndim != 4 or x.shape[1] % rate or x.shape[2] % rate:
      raise ValueError(
        f"SpatialRescaler with {self.num_stages} stages needs x of shape [B, "
        f"H, W, C] with H and W divisible by {rate}, got {x.shape}."
      )
    for _ in range(self.num_stages):
      x = downsample(x)
    return linear(x, self.features, "channel_mapper", use_bias=False)


# The configurations of CompVis/latent-diffusion: "cin256" is LDM-8's, "cin256"
# with "_v2" LDM-4's, whose label 1000 is no class.
CONDITIONERS = {
  "cin256": ClassEmbedder(1000),
  "cin256_v2": ClassEmbedder(),
  "semantic_synthesis256": SpatialRescaler(),
  "semantic_synthesis512": SpatialRescaler(),
}
