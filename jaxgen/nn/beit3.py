"""BEiT-3's trunk: images, texts and pairs of both through one transformer.

Wang et al. 2023, "Image as a Foreign Language: BEiT Pretraining for Vision and
Vision-Language Tasks", section 2. The released base and large networks differ
from the paper's giant one, see `jaxgen.nn.multiway`; the heads of its tasks are
in `jaxgen.nn.beit3_tasks` and `jaxgen.nn.captioner`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.multiway import Memory, MultiwayBlock, by_modality, layer_norm
from jaxgen.nn.packing import Packing
from jaxgen.nn.vit import PatchEmbedding, small_normal
from jaxgen.types import Array

# Rows of a table of positions that no token has; fairseq counts from 2.
FIRST_POSITION = 2


class Encoded(NamedTuple):
  """What the trunk makes of its input; a modality that is absent has 0 tokens.

  Attributes:
    image: `[B, N + 1, C]`, the class token first, then the patches.
    text: `[B, L, C]`.
    memory: keys and values of every block, of the tokens in this order.
    blocks: outputs of every block, `[B, N + 1 + L, C]` each, none normalised.
  """

  image: Array
  text: Array
  memory: tuple[Memory, ...]
  blocks: tuple[Array, ...]


class Beit3(nn.Module):
  """The trunk; the defaults are those of the released base network.

  Attributes:
    patch_size: height and width of a patch.
    width: channels.
    num_layers: blocks.
    num_heads: heads of the attention.
    mlp_width: channels between an expert's dense layers.
    vocab_size: tokens of texts.
    text_positions: rows of their table of positions, two more than the longest
      text may have tokens.
    shared_attention: both modalities share attention and the last LN (the
      paper's giant network); else each has its own (the released ones).
    pair_layers: top blocks with an expert for pairs: 3 in the paper, 0 in the
      released networks.
    sub_norm: LN before the last layer of every branch: the released networks
      have it; the counts printed for the giant one are those without it.
    output_norm: LN at the end. The heads of image classification and visual
      question answering have none (released code).
    paper_init: BEiT's initial weights, 0.02 for every table and token, and the
      branches' last layers divided by sqrt(2 depth), as the paper says. Else
      the released code's: positions of deviation 1, words of C^(-1/2), class
      and mask token 0, nothing divided.
    drop_path: rate of stochastic depth in the last block; it rises linearly
      from 0 in the first.
    dtype: of attention and dense layers. Parameters, normalisation statistics,
      softmax and the outputs of heads are float32.
    remat: recompute each block's activations in the backward pass.
  """

  patch_size: int = 16
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_width: int = 3072
  vocab_size: int = 64010
  text_positions: int = 1024
  shared_attention: bool = False
  pair_layers: int = 0
  sub_norm: bool = True
  output_norm: bool = True
  paper_init: bool = False
  drop_path: float = 0.0
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    images: Array | None = None,
    tokens: Array | None = None,
    padding: Array | Packing | None = None,
    *,
    patch_mask: Array | None = None,
    attention_mask: Array | None = None,
    past: tuple[Memory, ...] | None = None,
    first: Array | int = 0,
    pair: bool | None = None,
    deterministic: bool = True,
  ) -> Encoded:
    """Encodes images, texts or pairs.

    Args:
      images: `[B, H, W, 3]`, of N = (H / P) (W / P) patches; None for texts.
      tokens: integers `[B, L]`; None for images alone.
      padding: `[B, L]`, True where a token is padding: it starts as 0, and no
        token looks at it. Not all of a text without an image may be padding.
        Or a `Packing` of it, so that dense layers are spared it.
      patch_mask: `[B, N]`, True where a patch is replaced by the mask token.
      attention_mask: `[n, M + n]` or `[B, n, M + n]`, True where one of the n
        tokens, the rows, may look.
      past: each block's keys and values of M earlier tokens, see `Encoded`.
      first: the place of the first text token, from 0.
      pair: whether the tokens are of pairs, whose experts are in the top
        blocks; by default if there are images and tokens.
      deterministic: no stochastic depth; else a key of the rng "drop_path".

    Raises:
      ValueError: if the arguments do not fit, or a field is wrong.
    """
    packing = padding if isinstance(padding, Packing) else None
    padding = padding.padding if isinstance(padding, Packing) else padding
    self._check_images(images, tokens, patch_mask)
    self._check_text(images, tokens, padding)
    parts = []
    if images is not None:
      parts.append(self._image(images, patch_mask))
    if tokens is not None:
      parts.append(self._text(tokens, padding, first))
    split = 0 if images is None else parts[0].shape[1]
    h = jnp.concatenate(parts, axis=1) if len(parts) == 2 else parts[0]
    if pair is None:
      pair = len(parts) == 2
    known = 0 if past is None else past[0][0].shape[1]
    mask = _allowed(attention_mask, padding, known + split)
    module = MultiwayBlock
    if self.remat:
      module = nn.remat(MultiwayBlock, static_argnums=(2, 5, 6))
    memory, blocks = [], []
    for i in range(self.num_layers):
      block = self._block(module, i)
      earlier = None if past is None else past[i]
      h, kept = block(h, split, mask, earlier, pair, deterministic, packing)
      memory.append(kept)
      blocks.append(h)
    if self.output_norm:
      norm = lambda way: layer_norm(f"norm_{way}", self.dtype)
      shared = self.shared_attention
      h = norm("shared")(h) if shared else by_modality(h, split, norm)
    return Encoded(h[:, :split], h[:, split:], tuple(memory), tuple(blocks))

  def _block(self, module: type[MultiwayBlock], i: int) -> MultiwayBlock:
    return module(
      self.num_heads,
      self.mlp_width,
      self.shared_attention,
      i >= self.num_layers - self.pair_layers,
      self.sub_norm,
      (2 * (i + 1)) ** -0.5 if self.paper_init else 1.0,
      self.drop_path * i / max(1, self.num_layers - 1),
      self.dtype,
      name=f"block_{i}",
    )

  def _image(self, images: Array, mask: Array | None) -> Array:
    """The class token and the patches, with their positions."""
    embedding = PatchEmbedding(
      self.patch_size, self.width, self.dtype, name="patch_embed"
    )
    patches = embedding(images)
    init = small_normal() if self.paper_init else nn.initializers.zeros
    shape = (1, 1, self.width)
    token = self.param("mask_token", init, shape).astype(patches.dtype)
    cls = self.param("cls_token", init, shape).astype(patches.dtype)
    if mask is not None:
      patches = jnp.where(mask.astype(bool)[..., None], token, patches)
    cls = jnp.broadcast_to(cls, (images.shape[0], 1, self.width))
    h = jnp.concatenate([cls, patches], axis=1)
    rows = h.shape[1] + FIRST_POSITION
    table = self._positions("vision_positions", rows)
    return h + table[None, FIRST_POSITION:].astype(h.dtype)

  def _text(
    self, tokens: Array, padding: Array | None, first: Array | int
  ) -> Array:
    """The words, with their positions."""
    deviation = self.width**-0.5
    init = nn.initializers.normal(deviation)
    if self.paper_init:
      init = small_normal()
    words = self.param("text_embed", init, (self.vocab_size, self.width))
    table = self._positions("text_positions", self.text_positions)
    places = FIRST_POSITION + first + jnp.arange(tokens.shape[1])
    h = jnp.asarray(words)[tokens].astype(self.dtype)
    h = h + jnp.asarray(table)[places][None].astype(self.dtype)
    if padding is None:
      return h
    return jnp.where(padding.astype(bool)[..., None], 0, h)

  def _positions(self, name: str, rows: int) -> Array:
    init = small_normal() if self.paper_init else nn.initializers.normal(1.0)
    return self.param(name, init, (rows, self.width))

  def _check_images(
    self, images: Array | None, tokens: Array | None, mask: Array | None
  ) -> None:
    p = self.patch_size
    if self.width % self.num_heads:
      raise ValueError(
        f"Beit3 needs a width divisible by its {self.num_heads} heads, got "
        f"{self.width}."
      )
    if images is None and tokens is None:
      raise ValueError("Beit3 needs images, tokens or both, got neither.")
    if images is not None and (
      images.ndim != 4 or images.shape[1] % p or images.shape[2] % p
    ):
      raise ValueError(
        f"Beit3 needs images [B, H, W, C] with H and W divisible by {p}, got "
        f"{images.shape}."
      )
    patches = None
    if images is not None:
      b, h, w, _ = images.shape
      patches = (b, (h // p) * (w // p))
    if mask is not None and mask.shape != patches:
      raise ValueError(
        f"Beit3 needs a patch mask of shape {patches}, got {mask.shape}."
      )

  def _check_text(
    self, images: Array | None, tokens: Array | None, padding: Array | None
  ) -> None:
    longest = self.text_positions - FIRST_POSITION
    if tokens is not None and (
      tokens.ndim != 2
      or tokens.shape[1] > longest
      or (images is not None and len(images) != len(tokens))
    ):
      batch = "B" if images is None else len(images)
      raise ValueError(
        f"Beit3 needs tokens [{batch}, L] with L at most {longest}, got "
        f"{tokens.shape}."
      )
    wanted = None if tokens is None else tokens.shape
    if padding is not None and padding.shape != wanted:
      raise ValueError(
        f"Beit3 needs padding of shape {wanted}, got {padding.shape}."
      )


def _allowed(
  attention_mask: Array | None, padding: Array | None, others: int
) -> Array | None:
  """Where tokens may look, of `attention`'s axes.

  Args:
    attention_mask: `[n, m]` or `[B, n, m]`.
    padding: of the texts, `[B, L]`.
    others: how many tokens come before the text, m - L.
  """
  mask = None
  if attention_mask is not None:
    mask = attention_mask.astype(bool)
    mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
  if padding is not None:
    free = jnp.ones((padding.shape[0], others), bool)
    free = jnp.concatenate([free, ~padding.astype(bool)], axis=1)
    free = free[:, None, None]
    mask = free if mask is None else mask & free
  return mask


# The README of microsoft/unilm's beit3, and Wang et al. 2023, section 2.3 and
# Table 2.
BEIT3S = {
  "base": Beit3(),
  "large": Beit3(width=1024, num_layers=24, num_heads=16, mlp_width=4096),
  "giant": Beit3(
    patch_size=14,
    width=1408,
    num_layers=40,
    num_heads=16,
    mlp_width=6144,
    shared_attention=True,
    pair_layers=3,
    sub_norm=False,
    paper_init=True,
  ),
}
