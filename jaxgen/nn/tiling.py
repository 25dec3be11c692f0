"""Decoding latents in tiles, for images too large to decode at once."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array


def tiled_decode(
  decode: Callable[[Array], Array],
  z: Array,
  tile: int = 64,
  overlap: int = 16,
) -> Array:
  """Decodes overlapping tiles of a latent, one after another, and blends them.

  Tiles are spread evenly, neighbours sharing at least `overlap` rows or
  columns. Where they do, a pixel is the mean of what the tiles make of it,
  each weighted by its distance to the tile's edge, up to that of `overlap`: a
  linear blend. A decoder that attends to and normalises over the whole latent
  makes slightly other images of tiles than of the whole.

  Args:
    decode: latents `[B, tile, tile, C]` to images `[B, f tile, f tile, D]`.
    z: latents `[B, h, w, C]`.
    tile: height and width of a tile; at most those of z are used.
    overlap: of neighbouring tiles.

  Returns:
    Images `[B, f h, f w, D]`.

  Raises:
    ValueError: unless 0 <= overlap < tile.
  """
  if not 0 <= overlap < tile:
    raise ValueError(
      f"tiled_decode needs 0 <= overlap < tile, got overlap {overlap} and "
      f"tile {tile}."
    )
  b, h, w, c = z.shape
  size = (min(tile, h), min(tile, w))
  out = jax.eval_shape(decode, jax.ShapeDtypeStruct((b, *size, c), z.dtype))
  f, d = out.shape[1] // size[0], out.shape[3]
  corners = jnp.array(
    [
      (i, j)
      for i in _starts(h, size[0], overlap)
      for j in _starts(w, size[1], overlap)
    ]
  )
  ramps = [_ramp(f * n, f * overlap) for n in size]
  weight = jnp.asarray(np.outer(*ramps)[None, :, :, None])

  def add(sums, corner):
    images, weights = sums
    here = (0, *corner, 0)
    there = (0, *(f * corner), 0)
    y = decode(jax.lax.dynamic_slice(z, here, (b, *size, c)))
    images = _add_at(images, weight * y, there)
    return (images, _add_at(weights, weight, there)), None

  zeros = lambda n, channels: jnp.zeros((n, f * h, f * w, channels))
  sums, _ = jax.lax.scan(add, (zeros(b, d), zeros(1, 1)), corners)
  return sums[0] / sums[1]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
  """Where tiles begin, evenly from 0 to length - tile."""
  if length == tile:
    return [0]
  n = math.ceil((length - overlap) / (tile - overlap))
  return [i * (length - tile) // (n - 1) for i in range(n)]


def _ramp(length: int, overlap: int) -> np.ndarray:
  """Distances of pixels to the nearer end, at most `overlap`."""
  centres = np.arange(length, dtype=np.float32) + 0.5
  return np.minimum(np.minimum(centres, length - centres), max(overlap, 0.5))


def _add_at(x: Array, part: Array, corner: tuple[Array | int, ...]) -> Array:
  here = jax.lax.dynamic_slice(x, corner, part.shape)
  return jax.lax.dynamic_update_slice(x, here + part, corner)
