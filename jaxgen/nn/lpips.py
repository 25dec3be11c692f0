"""LPIPS, the learned perceptual distance of images (Zhang et al. 2018)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxgen.types import Array

# VGG16's convolutions up to each stage's end, by their places in torchvision's
# list of layers, and the stage's width (Simonyan & Zisserman 2015, Table 1, D).
STAGES = (
  (64, (0, 2)),
  (128, (5, 7)),
  (256, (10, 12, 14)),
  (512, (17, 19, 21)),
  (512, (24, 26, 28)),
)

# Images in [-1, 1] to ImageNet's mean 0 and standard deviation 1: mean and
# deviation of torchvision's pixels in [0, 1], doubled, and shifted by one.
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)


class VGG16(nn.Module):
  """The convolutions of VGG16 (Simonyan & Zisserman 2015).

  Attributes:
    dtype: of the computation; parameters are float32.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    """The activations at the end of each of the five stages.

    Args:
      x: normalised images `[B, H, W, 3]`.

    Returns:
      relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3,
      `[B, H / 2^i, W / 2^i, C_i]`, i = 0, ..., 4.
    """
    taps: list[Array] = []
    for width, places in STAGES:
      if taps:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for place in places:
        layer = nn.Conv(
          width, (3, 3), padding=1, dtype=self.dtype, name=f"features_{place}"
        )
        x = nn.relu(layer(x))
      taps.append(x)
    return taps


class LPIPS(nn.Module):
  """LPIPS of version 0.1 with VGG16, the loss of VQGAN and latent diffusion.

      d(x, y) = sum_l mean_hw w_l . (f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)|)^2

  Zhang et al. 2018, Eq. 1: f_l are VGG16's activations, w_l >= 0 were fitted
  to human judgements. Its parameters are published ones (jaxgen.convert.lpips)
  and not trained further.

  Attributes:
    dtype: of VGG16; parameters, the normalisation and the sums are float32.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, y: Array) -> Array:
    """The distance of each x to its y.

    Args:
      x: images `[B, H, W, 3]` in [-1, 1].
      y: images of the same shape.

    Returns:
      `[B]`, float32.

    Raises:
      ValueError: if the shapes differ, or are too small to be pooled four
        times, or the images are not of three colours.
    """
    fits = x.ndim == 4 and x.shape == y.shape and x.shape[-1] == 3
    if not fits or min(x.shape[1:3]) < 16:
      raise ValueError(
        "LPIPS needs two batches of one shape [B, H, W, 3], H and W at least "
        f"16, got {x.shape} and {y.shape}."
      )
    both = jnp.concatenate([x, y]).astype(jnp.float32)
    both = (both - _SHIFT[None, None, None]) / _SCALE[None, None, None]
    distance = jnp.zeros(len(x))
    for k, features in enumerate(VGG16(self.dtype, name="vgg")(both)):
      a, b = jnp.split(unit_length(features.astype(jnp.float32)), 2)
      init = nn.initializers.constant(1.0 / features.shape[-1])
      weight = self.param(f"lin{k}", init, (features.shape[-1], 1))
      distance += (jnp.square(a - b) @ weight).mean((1, 2, 3))
    return distance


def unit_length(features: Array) -> Array:
  """f / (|f| + 1e-10) of f `[..., C]`, with a gradient of 0 where f is 0."""
  squares = jnp.square(features).sum(-1, keepdims=True)
  positive = squares > 0
  norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)
  return features / (norm + 1e-10)
