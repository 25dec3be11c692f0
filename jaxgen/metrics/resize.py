"""The ways to bring images to the 299 x 299 pixels that Inception takes.

FIDs under different rules do not compare: Parmar et al. 2022 measure what a
resize alone does to the score. Each rule here maps uint8 `[B, H, W, C]` with
C = 1 or 3 to float32 `[B, 299, 299, 3]` near [-1, 1]; grey images are repeated.

A resize is linear and separable: y = R x C^T for each channel, where a row of R
holds the weights of the pixels that an output pixel is made of.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array

SIZE = 299


def pytorch_fid(images: Array) -> Array:
  """pytorch-fid: bilinear without antialiasing, 2 (y / 255) - 1.

  Output pixel i looks at (i + 1/2) n / 299 - 1/2, at least 0, of n pixels.
  """
  scaled = _prepare(images) / 255
  return 2 * _resize(scaled, _half_pixel_weights) - 1


def tf1(images: Array) -> Array:
  """TensorFlow's graph itself, and torch-fidelity: bilinear, (y - 128) / 128.

  Output pixel i looks at i n / 299 of n pixels: TensorFlow 1's legacy rule,
  which shifts the image.
  """
  return (_resize(_prepare(images), _legacy_weights) - 128) / 128


def clean(images: Array) -> Array:
  """clean-fid (Parmar et al. 2022): PIL's bicubic filter, (y - 128) / 128.

  The filter widens when it shrinks an image, so there is no aliasing. y is
  clipped to [0, 255] but not rounded.
  """
  resized = _resize(_prepare(images), _bicubic_weights)
  return (jnp.clip(resized, 0, 255) - 128) / 128


RESIZES: dict[str, Callable[[Array], Array]] = {
  "pytorch-fid": pytorch_fid,
  "tf1": tf1,
  "clean": clean,
}


def _prepare(images: Array) -> Array:
  """float32 `[B, H, W, 3]` of the same values."""
  if images.dtype != jnp.uint8 or images.ndim != 4:
    raise ValueError(
      "A resize needs uint8 images [B, H, W, C], got "
      f"{images.dtype} {images.shape}."
    )
  if images.shape[-1] not in (1, 3):
    raise ValueError(f"Images have 1 or 3 channels, got {images.shape[-1]}.")
  shape = (*images.shape[:-1], 3)
  return jnp.broadcast_to(images.astype(jnp.float32), shape)


def _resize(x: Array, weights: Callable[[int], np.ndarray]) -> Array:
  # Columns first, like PIL. TPUs and GPUs round products unless told not to.
  height, width = x.shape[1:3]
  exact = jax.lax.Precision.HIGHEST
  x = jnp.einsum("bhwc,jw->bhjc", x, weights(width), precision=exact)
  return jnp.einsum("bhjc,ih->bijc", x, weights(height), precision=exact)


def _half_pixel_weights(length: int) -> np.ndarray:
  """`[299, length]` of bilinear interpolation between the pixels' centres."""
  pixels, scale = np.arange(SIZE, dtype=np.float32), np.float32(length / SIZE)
  return _bilinear((pixels + np.float32(0.5)) * scale - np.float32(0.5), length)


def _legacy_weights(length: int) -> np.ndarray:
  """`[299, length]` of bilinear interpolation between upper left corners."""
  pixels, scale = np.arange(SIZE, dtype=np.float32), np.float32(length / SIZE)
  return _bilinear(pixels * scale, length)


def _bilinear(positions: np.ndarray, length: int) -> np.ndarray:
  """Weights of the two pixels around each position, those beyond repeated.

  In float32, as the originals: their rounding of positions reaches the third
  decimal of 8-bit levels.
  """
  positions = positions.clip(0, length - 1)
  pixels = np.arange(length, dtype=np.float32)
  return np.maximum(1 - np.abs(positions[:, None] - pixels), 0)


def _bicubic_weights(length: int) -> np.ndarray:
  """`[299, length]` of PIL's bicubic filter, rows summing to 1.

  Keys' kernel with a = -1/2 (Keys 1981), as wide as an output pixel
  when that is more than one input pixel. At the border the weights of pixels
  that do not exist go to the others in proportion.
  """
  scale = length / SIZE
  centers = (np.arange(SIZE) + 0.5) * scale
  distances = np.arange(length) + 0.5 - centers[:, None]
  t = np.abs(distances) / max(scale, 1)
  near = (1.5 * t - 2.5) * t**2 + 1
  far = ((-0.5 * t + 2.5) * t - 4) * t + 2
  weights = np.where(t < 1, near, np.where(t < 2, far, 0))
  return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
