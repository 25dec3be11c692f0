"""EDM's augmentation, which does not leak (Karras et al. 2022, App. F.2).

Training images are changed at random and the network is told how. Told that
nothing was changed, it makes images like the unchanged ones. The changes are
the flips and the geometry of StyleGAN2-ADA (Karras et al. 2020, App. B).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaxgen.types import Array, Key

AUGMENT_LABELS = 9
STD = 0.2  # of the base-2 logarithms of zoom and stretch
SHIFT_STD = 0.125  # of a shift, in heights or widths
_HIGHEST = jax.lax.Precision.HIGHEST
# Daubechies' least asymmetric filter with six vanishing moments, "sym6".
SYM6 = np.array(
  [
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
  ]
)


class Changes(NamedTuple):
  """What is done to each image, in this order; zero is nothing.

  Attributes:
    mirror: `[B]`, 1 flips left and right.
    upend: `[B]`, 1 flips top and bottom.
    zoom: `[B]`, enlarges by 2^(0.2 zoom).
    angle: `[B]`, rotates counterclockwise, in radians.
    stretch: `[B]`, enlarges by 2^(0.2 stretch) along an axis and shrinks as
      much across it.
    axis: `[B]`, its angle.
    shift: `[B, 2]`, moves right and down by so many eighths of the image.
  """

  mirror: Array
  upend: Array
  zoom: Array
  angle: Array
  stretch: Array
  axis: Array
  shift: Array


def augment(key: Key, images: Array, p: float) -> tuple[Array, Array]:
  """Images changed at random, and what the network is told of it.

  Args:
    key: draws the changes.
    images: `[B, H, W, C]`.
    p: probability of each change but the mirror's; 0 is no change at all. The
      paper's is 0.12 for CIFAR-10 and 0.15 for FFHQ and AFHQv2.

  Returns:
    The images, and labels `[B, 9]` of `labels_of`.
  """
  changes = draw_changes(key, len(images), p)
  return apply_changes(images, changes), labels_of(changes)


def draw_changes(key: Key, n: int, p: float) -> Changes:
  """Random changes of n images (App. F.2).

  An image is mirrored with probability 1/2, whatever p > 0 is. With probability
  p each: it is upended or not, evenly; zoom, stretch and both shifts are drawn
  from N(0, 1), an angle from (-pi, pi). Half of the stretches are along x.
  """
  keys = jax.random.split(key, 5)
  happens = jax.random.bernoulli(keys[0], p, (n, 5)).astype(jnp.float32).T
  flips = jax.random.bernoulli(keys[1], 0.5, (n, 2)).astype(jnp.float32).T
  normal = jax.random.normal(keys[2], (n, 4))
  angle, axis = jax.random.uniform(keys[3], (2, n), minval=-np.pi, maxval=np.pi)
  slanted = jax.random.bernoulli(keys[4], 0.5, (n,))
  return Changes(
    mirror=jnp.where(jnp.asarray(p) > 0, flips[0], 0.0),
    upend=happens[0] * flips[1],
    zoom=happens[1] * normal[:, 0],
    angle=happens[2] * angle,
    stretch=happens[3] * normal[:, 1],
    axis=jnp.where(slanted, axis, 0.0),
    shift=happens[4][:, None] * normal[:, 2:],
  )


def labels_of(changes: Changes) -> Array:
  """The changes as nine numbers `[B, 9]`, all zero where there are none.

  mirror, upend, zoom, cos(angle) - 1, sin(angle), stretch (cos, sin)(axis),
  shift x, y.
  """
  c = changes
  parts = [
    c.mirror,
    c.upend,
    c.zoom,
    jnp.cos(c.angle) - 1,
    jnp.sin(c.angle),
    c.stretch * jnp.cos(c.axis),
    c.stretch * jnp.sin(c.axis),
    *c.shift.T,
  ]
  return jnp.stack(parts, axis=-1)


def apply_changes(images: Array, changes: Changes) -> Array:
  """The changed images `[B, H, W, C]`.

  Flips move pixels. The rest is one affine map, read from the image at twice
  its size; the filter both ways is `SYM6`, under which whole pixels are moved
  without loss. Beyond its edges the image is reflected once, then 0. An image
  that the map does not change is returned bit for bit.
  """
  c = changes
  images = jnp.where(_wide(c.mirror) > 0, images[:, :, ::-1], images)
  images = jnp.where(_wide(c.upend) > 0, images[:, ::-1], images)
  geometry = jnp.stack([c.zoom, c.angle, c.stretch, *c.shift.T])
  still = (geometry == 0).all(0)
  return jnp.where(_wide(still), images, _transform(images, c))


def _wide(a: Array) -> Array:
  return a[:, None, None, None]


def _transform(images: Array, c: Changes) -> Array:
  """The affine map: each point of the finer output is looked up backwards."""
  height, width = images.shape[1:3]
  sizes = (height, width)
  up = [_finer(3 * n - 2) @ _reflected(n) for n in sizes]
  finer = jnp.einsum(
    "kh,bhwc,lw->bklc", up[0], images, up[1], precision=_HIGHEST
  )
  # Pixel i is at 2 i of the finer image. Coordinates here are pixels from the
  # centre; three pixels around the output are for the filter.
  y, x = (np.arange(2 * n + 12) / 2 - 3 - (n - 1) / 2 for n in sizes)
  shift = (c.shift * SHIFT_STD)[:, :, None]
  x = x[None] - width * shift[:, 0]
  y = y[None] - height * shift[:, 1]
  back = _backwards(c)[:, :, :, None, None]
  from_x, from_y = (
    back[:, i, 0] * x[:, None, :] + back[:, i, 1] * y[:, :, None]
    for i in (0, 1)
  )
  rows, columns = 2 * from_y + 3 * (height - 1), 2 * from_x + 3 * (width - 1)
  read = lambda channel, *at: map_coordinates(channel, at, order=1)
  moved = jax.vmap(jax.vmap(read, (-1, None, None), -1))(finer, rows, columns)
  down = [_finer(n + 6)[:, 3:-3] for n in sizes]
  return jnp.einsum(
    "kh,bklc,lw->bhwc", down[0], moved, down[1], precision=_HIGHEST
  )


def _backwards(c: Changes) -> Array:
  """The inverse of zoom, rotation, then stretch, on (x, y): `[B, 2, 2]`."""

  def rotation(angle):
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    return jnp.moveaxis(rows, -1, 0)

  along = jnp.stack([-c.stretch, c.stretch], -1) * STD
  unstretch = jnp.exp2(along)[:, :, None] * rotation(c.axis)
  unstretch = jnp.matmul(rotation(-c.axis), unstretch, precision=_HIGHEST)
  turned = jnp.matmul(rotation(c.angle), unstretch, precision=_HIGHEST)
  return jnp.exp2(-STD * c.zoom)[:, None, None] * turned


def _finer(n: int) -> np.ndarray:
  """`[2 n, n]`: twice the size, which the transpose undoes."""
  taps = np.arange(2 * n)[:, None] - 2 * np.arange(n) + 5
  inside = (taps >= 0) & (taps < len(SYM6))
  matrix = np.where(inside, SYM6[taps.clip(0, len(SYM6) - 1)], 0)
  return matrix.astype(np.float32)


def _reflected(n: int) -> np.ndarray:
  """`[3 n - 2, n]`: a reflection on either side."""
  eye = np.eye(n, dtype=np.float32)
  return np.pad(eye, ((n - 1, n - 1), (0, 0)), mode="reflect")
