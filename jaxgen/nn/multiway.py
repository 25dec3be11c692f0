"""Multiway transformers: one attention over image and text, experts for each.

Wang et al. 2023, "Image as a Foreign Language: BEiT Pretraining for Vision and
Vision-Language Tasks" (BEiT-3), section 2.1; Bao et al. 2022, "VLMo", section
3.1. There are two of them. In the papers' all tokens share the attention and
have a feed-forward network by modality; pairs of an image and a text have a
third one in the top layers. In the released BEiT-3, "decoupled", attention's
projections and normalisations are by modality too, and pairs have nothing of
their own.

A sequence is image tokens, then text tokens. How many are of the image, the
split, is part of the program and not data: every token runs through its own
expert alone, and a modality that is absent has no parameters.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.attention import attention
from jaxgen.nn.layers import Dense, gelu
from jaxgen.nn.packing import Packing, each_token, each_word
from jaxgen.nn.vit import DropPath, small_normal
from jaxgen.types import Array

EPSILON = 1e-5
Memory = tuple[Array, Array]  # keys and values, [B, M, heads, C / heads] each


def layer_norm(name: str, dtype: DTypeLike = jnp.float32) -> nn.LayerNorm:
  """Layer normalisation of epsilon 1e-5, its statistics in float32."""
  return nn.LayerNorm(EPSILON, dtype=dtype, use_fast_variance=False, name=name)


def by_modality(
  x: Array,
  split: int,
  layer: Callable[[str], Callable[[Array], Array]],
  packing: Packing | None = None,
) -> Array:
  """layer("vision") of the first `split` tokens, layer("text") of the others.

  Args:
    x: tokens `[B, N, C]`.
    split: how many are of an image, in [0, N].
    layer: a modality's map of its tokens; not asked for without tokens.
    packing: of the texts, whose padding becomes 0.
  """
  parts = []
  if split > 0:
    parts.append(layer("vision")(x[:, :split]))
  if split < x.shape[1]:
    parts.append(each_word(layer("text"), x[:, split:], packing))
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


class Attention(nn.Module):
  """Self-attention of all tokens: out(LN(softmax(q k^T / sqrt(d)) v)).

  q, k and v have a bias each. The softmax is taken in float32.

  Attributes:
    num_heads: heads of d = C / num_heads channels.
    shared: one q, k, v, LN and out for both modalities; else one for each.
    sub_norm: the LN before `out` (Wang et al. 2022, "Magneto").
    out_scale: of the initial weights of `out`.
    dtype: of the computation; parameters are float32.
  """

  num_heads: int
  shared: bool = False
  sub_norm: bool = True
  out_scale: float = 1.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Array,
    split: int,
    mask: Array | None = None,
    past: Memory | None = None,
    packing: Packing | None = None,
  ) -> tuple[Array, Memory]:
    """Maps x `[B, N, C]` to its own shape, and gives its keys and values.

    Args:
      x: normalised tokens.
      split: how many are of an image.
      mask: broadcasting to `[B, heads, N, M + N]`, True where a token, the
        third axis, may look.
      past: keys and values of M earlier tokens, which are looked at too.
      packing: of the texts.
    """
    b, n, c = x.shape
    qkv = self._each(x, split, self._qkv, packing)
    q, k, v = (
      part.reshape(b, n, self.num_heads, c // self.num_heads)
      for part in jnp.split(qkv, 3, axis=-1)
    )
    keys, values = k, v
    if past is not None:
      keys = jnp.concatenate([past[0].astype(k.dtype), k], axis=1)
      values = jnp.concatenate([past[1].astype(v.dtype), v], axis=1)
    y = attention(q, keys, values, mask=mask)
    y = y.reshape(b, n, c)
    return self._each(y, split, self._out, packing), (k, v)

  def _each(
    self,
    x: Array,
    split: int,
    layer: Callable[[str], Callable],
    packing: Packing | None,
  ) -> Array:
    if self.shared:
      return each_token(layer("shared"), x, split, packing)
    return by_modality(x, split, layer, packing)

  def _qkv(self, way: str) -> Callable[[Array], Array]:
    return lambda x: _dense(3 * x.shape[-1], f"qkv_{way}", self.dtype)(x)

  def _out(self, way: str) -> Callable[[Array], Array]:
    def out(x: Array) -> Array:
      if self.sub_norm:
        x = layer_norm(f"norm_{way}", self.dtype)(x)
      return _dense(x.shape[-1], f"out_{way}", self.dtype, self.out_scale)(x)

    return out


class Expert(nn.Module):
  """A feed-forward network: fc2(LN(gelu(fc1(LN(x))))), gelu in float32.

  Attributes:
    mlp_width: channels between the dense layers.
    sub_norm: the second LN.
    out_scale: of the initial weights of fc2.
    dtype: of the computation; parameters are float32.
  """

  mlp_width: int
  sub_norm: bool = True
  out_scale: float = 1.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, N, C]` to its own shape."""
    y = layer_norm("norm", self.dtype)(x)
    y = _dense(self.mlp_width, "fc1", self.dtype)(y)
    y = gelu(y.astype(jnp.float32))
    y = y.astype(self.dtype)
    if self.sub_norm:
      y = layer_norm("sub_norm", self.dtype)(y)
    return _dense(x.shape[-1], "fc2", self.dtype, self.out_scale)(y)


class MultiwayBlock(nn.Module):
  """x + attention(LN(x)), then x + expert(x) of each token's modality.

  Attributes:
    num_heads: heads of the attention.
    mlp_width: channels between an expert's dense layers.
    shared_attention: the papers' block, whose attention and its LN are of both
      modalities; else the released one.
    pair_expert: the tokens of pairs have one expert here, of both modalities.
    sub_norm: normalisations before the branches' last layers.
    out_scale: of these layers' initial weights.
    drop_path: rate of stochastic depth.
    dtype: of attention and dense layers; parameters, softmax and normalisation
      statistics are float32.
  """

  num_heads: int
  mlp_width: int
  shared_attention: bool = False
  pair_expert: bool = False
  sub_norm: bool = True
  out_scale: float = 1.0
  drop_path: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Array,
    split: int,
    mask: Array | None = None,
    past: Memory | None = None,
    pair: bool = False,
    deterministic: bool = True,
    packing: Packing | None = None,
  ) -> tuple[Array, Memory]:
    """Maps x `[B, N, C]` to its own shape; also gives its keys and values.

    Args:
      x: tokens, those of an image first.
      split: how many are of an image.
      mask: see `Attention`.
      past: see `Attention`.
      pair: the tokens are part of a pair.
      deterministic: no stochastic depth; else a key of the rng "drop_path".
      packing: of the texts; without it, dense layers see their padding, too.
    """
    drop_path = DropPath(self.drop_path, name="drop")
    attend = Attention(
      self.num_heads,
      self.shared_attention,
      self.sub_norm,
      self.out_scale,
      self.dtype,
      name="attn",
    )
    norm = lambda way: layer_norm(f"norm_{way}", self.dtype)
    if self.shared_attention:
      y = norm("shared")(x)
    else:
      y = by_modality(x, split, norm)
    y, memory = attend(y, split, mask, past, packing)
    x = x + drop_path(y, deterministic)

    pair = pair and self.pair_expert
    if not pair or self.is_initializing():  # a pair initialises all experts
      y = by_modality(x, split, self._expert, packing)
    if pair:
      y = each_token(self._expert("pair"), x, split, packing)
    return x + drop_path(y, deterministic), memory

  def _expert(self, way: str) -> Expert:
    return Expert(
      self.mlp_width,
      self.sub_norm,
      self.out_scale,
      self.dtype,
      name=f"expert_{way}",
    )


def _dense(
  features: int, name: str, dtype: DTypeLike, scale: float = 1.0
) -> Dense:
  init = small_normal(scale)
  return Dense(features, dtype=dtype, kernel_init=init, name=name)
