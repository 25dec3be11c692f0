"""Texts without their padding, for layers that see one token at a time.

A batch of texts is as long as its longest may be, and most of it is padding.
Dense layers and normalisations do not care where a token stands: they get the
words of a group of texts one after another, with room for so many. Attention
gets every text back in its place. No published code of BEiT-3 does this; the
results are those of the padded batch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.nn.vit import chosen
from jaxgen.types import Array


class Packing(NamedTuple):
  """Where words go, for G groups of R texts of L tokens and room for T words.

  Attributes:
    padding: bool `[G R, L]`, True where a token is padding, or cut.
    cut: int `[]`, how many words had no room and are padding now.
    source: int `[G, T]`, the place of each packed word in its group's R L
      tokens; 0 where the room is left empty.
    filled: bool `[G, T]`, False where it is left empty.
    target: int `[G, R L]`, the place of each token among the packed; 0 for
      padding.
  """

  padding: Array
  cut: Array
  source: Array
  filled: Array
  target: Array


def pack_texts(padding: Array, room: float, groups: int = 1) -> Packing:
  """Plans the packing of a batch.

  Where a group has more words than room, its longest texts are cut at their
  ends until it has not.

  Args:
    padding: bool `[B, L]`, True where a token is padding, which follows a
      text's end.
    room: words per text, by mean over a group; T is room B / G, rounded up, and
      B L / G at most. Only T is part of the compiled program.
    groups: G, each of consecutive texts; as many as devices share the batch, so
      that no word leaves its device.

  Raises:
    ValueError: B is not a multiple of `groups`, or there is room for less than
      two words per text.
  """
  b, length = padding.shape
  if groups < 1 or b % groups:
    raise ValueError(f"{b} texts do not make {groups} groups")
  if room < 2:
    raise ValueError(f"a text needs room for 2 words at least, got {room}")
  tokens = b // groups * length
  total = min(math.ceil(room * b / groups), tokens)
  words = ~padding.astype(bool).reshape(groups, -1, length)
  # For each length that texts may be cut to, how many words they have then.
  cuts = jnp.cumsum(words.sum(1), axis=-1)
  longest = (cuts <= total).sum(-1)
  kept = words & (jnp.arange(length)[None, None] < longest[:, None, None])
  kept = kept.reshape(groups, tokens)
  place = jnp.cumsum(kept, axis=-1) - 1
  source = jnp.argsort(~kept, axis=-1, stable=True)[:, :total]
  filled = jnp.arange(total)[None] < kept.sum(-1, keepdims=True)
  return Packing(
    ~kept.reshape(b, length),
    words.sum() - kept.sum(),
    jnp.where(filled, source, 0),
    filled,
    jnp.where(kept, place, 0),
  )


@jax.custom_vjp
def pack(x: Array, packing: Packing) -> Array:
  """The words of x `[B, L, C]` without the padding, `[G, T, C]`."""
  groups = len(packing.source)
  flat = x.reshape(groups, -1, x.shape[-1])
  return _gather(flat, packing.source, packing.filled)


@jax.custom_vjp
def unpack(y: Array, packing: Packing) -> Array:
  """The words y `[G, T, C]` in their places, `[B, L, C]`; 0 for padding."""
  kept = ~packing.padding.reshape(packing.target.shape)
  found = _gather(y, packing.target, kept)
  return found.reshape(*packing.padding.shape, y.shape[-1])


def _gather(x: Array, places: Array, there: Array) -> Array:
  return jnp.where(there[..., None], chosen(x, places), 0)


# Each is the transpose of the other: words have one place on either side. A
# gather's own transpose is a scatter, which is slow.
pack.defvjp(
  lambda x, packing: (pack(x, packing), packing),
  lambda packing, g: (unpack(g, packing), None),
)
unpack.defvjp(
  lambda y, packing: (unpack(y, packing), packing),
  lambda packing, g: (pack(g, packing), None),
)


def each_word(
  layer: Callable[[Array], Array], x: Array, packing: Packing | None
) -> Array:
  """layer(x) of texts x `[B, L, C]`, but 0 for padding if they are packed."""
  if packing is None:
    return layer(x)
  return unpack(layer(pack(x, packing)), packing)


def each_token(
  layer: Callable[[Array], Array],
  x: Array,
  split: int,
  packing: Packing | None,
) -> Array:
  """layer(x), one map for images and texts, as `each_word` of the texts.

  Args:
    layer: sees one token at a time.
    x: tokens `[B, N, C]`, those of images first.
    split: how many are of an image, in [0, N].
    packing: of the texts.
  """
  if packing is None or split == x.shape[1]:
    return layer(x)
  if split == 0:
    return each_word(layer, x, packing)
  groups = len(packing.source)
  patches = x[:, :split].reshape(groups, -1, x.shape[-1])
  words = pack(x[:, split:], packing)
  y = layer(jnp.concatenate([patches, words], axis=1))
  count = patches.shape[1]
  found = y[:, :count].reshape(len(x), split, -1)
  return jnp.concatenate([found, unpack(y[:, count:], packing)], axis=1)
