"""A small classifier whose features compare images where Inception is absent.

Not from a paper: four convolutions, trained on the data set itself. Distances
between its features follow the metrics' formulas but not their published
values.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nn.inception import EXACT
from jaxgen.nn.layers import Dense
from jaxgen.types import Array

WIDTHS = (32, 64, 96, 128)


class SmallTaps(NamedTuple):
  """What metrics read from the network, all float32.

  Attributes:
    pool: `[B, 128]`, the mean of the last map.
    spatial: `[B, H/4, W/4, 7]`, the first channels of the third map.
    logits: `[B, K]`, without a bias.
  """

  pool: Array
  spatial: Array
  logits: Array


class SmallCNN(nn.Module):
  """3 x 3 convolutions with group normalisation; the second and third halve.

  Attributes:
    classes: K.
  """

  classes: int

  @nn.compact
  def __call__(self, x: Array) -> SmallTaps:
    """The features of images x `[B, H, W, C]` in [-1, 1]."""
    maps = []
    for i, width in enumerate(WIDTHS):
      stride = 2 if i in (1, 2) else 1
      x = nn.Conv(
        width,
        (3, 3),
        stride,
        use_bias=False,
        precision=EXACT,
        name=f"conv_{i}",
      )(x)
      x = nn.relu(nn.GroupNorm(8, name=f"norm_{i}")(x))
      maps.append(x)
    pool = x.mean((1, 2))
    logits = Dense(
      self.classes, use_bias=False, precision=EXACT, name="classes"
    )(pool)
    return SmallTaps(pool, maps[2][..., :7], jnp.asarray(logits))
