"""The vision transformer of BEiT and what its papers share of it.

Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", App. A; Peng
et al. 2022, "BEiT v2". Tokens are a class token, then the patches of an image
row after row.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxgen.nn.attention import attention
from jaxgen.nn.layers import Dense, Dropout, Initializer, gelu
from jaxgen.types import Array

RelativePositions = Literal["none", "shared", "per_block"]
EPSILON = 1e-6
_CUT = 1.0  # initial weights are cut where they exceed their deviation


def small_normal(scale: float = 1.0) -> Initializer:
  """scale times a normal of deviation 0.02, cut off at +- 0.02."""
  return nn.initializers.truncated_normal(0.02 * scale, lower=-_CUT, upper=_CUT)


def layer_norm(name: str, dtype: DTypeLike = jnp.float32) -> nn.LayerNorm:
  """Layer normalisation of epsilon 1e-6, its statistics in float32."""
  return nn.LayerNorm(EPSILON, dtype=dtype, use_fast_variance=False, name=name)


def relative_position_index(height: int, width: int) -> np.ndarray:
  """Which entry of a bias table belongs to a query and a key.

  For patches at (y_i, x_i) and (y_j, x_j) of a grid it is
  (y_i - y_j + height - 1) (2 width - 1) + x_i - x_j + width - 1. The last three
  of the (2 height - 1) (2 width - 1) + 3 entries are those of the class token
  as query, as key and as both.

  Returns:
    int32 `[N + 1, N + 1]` for N = height width patches, the query first.
  """
  y, x = np.divmod(np.arange(height * width), width)
  rows = (2 * height - 1) * (2 * width - 1)
  index = np.empty((len(y) + 1, len(y) + 1), np.int32)
  index[0, :], index[:, 0], index[0, 0] = rows, rows + 1, rows + 2
  dy, dx = y[:, None] - y[None], x[:, None] - x[None]
  index[1:, 1:] = (dy + height - 1) * (2 * width - 1) + dx + width - 1
  return index


class RelativePositionBias(nn.Module):
  """A learnt number for every head and pair of positions, at first zero.

  Attributes:
    num_heads: heads of the attention.
  """

  num_heads: int

  @nn.compact
  def __call__(self, grid: tuple[int, int]) -> Array:
    """The bias `[heads, N + 1, N + 1]` of a grid of patches."""
    height, width = grid
    rows = (2 * height - 1) * (2 * width - 1) + 3
    table = self.param("table", nn.initializers.zeros, (rows, self.num_heads))
    return table[relative_position_index(height, width)].transpose(2, 0, 1)


def attention_weights(q: Array, k: Array, bias: Array | None) -> Array:
  """softmax(q k^T / sqrt(d) + bias) over the keys, float32.

  Args:
    q: queries `[B, N, heads, d]`.
    k: keys `[B, N, heads, d]`.
    bias: `[1, heads, N, N]`, or None.

  Returns:
    `[B, heads, N, N]`, the query first.
  """
  q, k = q.astype(jnp.float32), k.astype(jnp.float32)
  logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
  if bias is not None:
    logits = logits + bias.astype(jnp.float32)
  return jax.nn.softmax(logits, axis=-1)


class Attention(nn.Module):
  """Self-attention: softmax(q k^T / sqrt(d) + bias) v, then a dense layer.

  q and v have a bias, k has none. The softmax is taken in float32.

  Where "intermediates" are mutable, as with `apply(..., mutable=
  ["intermediates"])`, the weights of the sum, softmax(...), `[B, heads, N, N]`,
  are computed once more and kept there as "weights".

  Attributes:
    num_heads: heads of d = C / num_heads channels.
    proj_scale: of the last layer's initial weights.
    dtype: of the computation; parameters are float32.
  """

  num_heads: int
  proj_scale: float = 1.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, bias: Array | None) -> Array:
    """Maps x `[B, N, C]` to its own shape; bias is `[heads, N, N]`."""
    b, n, c = x.shape
    zeros = nn.initializers.zeros
    kernel = self.param("qkv", small_normal(), (c, 3 * c)).astype(self.dtype)
    q_bias = self.param("q_bias", zeros, (c,))
    v_bias = self.param("v_bias", zeros, (c,))
    qkv_bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
    rows = x.astype(self.dtype).reshape(b * n, c)  # see `Dense`
    qkv = rows @ kernel + qkv_bias.astype(self.dtype)[None]
    q, k, v = (
      part.reshape(b, n, self.num_heads, -1)
      for part in jnp.split(qkv, 3, axis=-1)
    )
    if bias is not None:
      bias = bias[None]
    if self.is_mutable_collection("intermediates"):
      self.sow("intermediates", "weights", attention_weights(q, k, bias))
    y = attention(q, k, v, bias=bias)
    proj = Dense(
      c,
      dtype=self.dtype,
      kernel_init=small_normal(self.proj_scale),
      name="proj_out",
    )
    return proj(y.reshape(b, n, c))


class DropPath(nn.Module):
  """Stochastic depth (Huang et al. 2016): a branch is 0, or scaled to keep.

  One draw for each example, of the stream "drop_path"; what is kept is divided
  by 1 - rate.

  Attributes:
    rate: probability of dropping, in [0, 1).
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, deterministic: bool) -> Array:
    """Drops the branch x `[B, ...]` of some examples."""
    if deterministic or self.rate == 0:
      return x
    keep = 1.0 - self.rate
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    mask = jax.random.bernoulli(self.make_rng("drop_path"), keep, shape)
    return jnp.where(mask, x / keep, jnp.zeros_like(x))


class Block(nn.Module):
  """A transformer's block, its normalisations before its branches.

  x + gamma_1 attention(LN(x)), then x + gamma_2 fc2(gelu(fc1(LN(x)))).

  Attributes:
    num_heads: heads of the attention.
    mlp_width: channels between the dense layers.
    depth: the block's number, from 1; the branches' last initial weights are
      divided by sqrt(2 depth) (Bao et al. 2022, section 2.5).
    layer_scale: initial gamma (Touvron et al. 2021); None for no gamma.
    dropout: rate after the dense layers.
    drop_path: rate of stochastic depth.
    own_bias: the block has a relative position bias of its own.
    dtype: of attention and dense layers; parameters, softmax and normalisation
      statistics are float32.
  """

  num_heads: int
  mlp_width: int
  depth: int = 1
  layer_scale: float | None = None
  dropout: float = 0.0
  drop_path: float = 0.0
  own_bias: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Array,
    bias: Array | None,
    grid: tuple[int, int],
    deterministic: bool = True,
  ) -> Array:
    """Maps x `[B, N + 1, C]` to its own shape.

    Args:
      x: tokens.
      bias: relative position bias `[heads, N + 1, N + 1]` of all blocks.
      grid: height and width of the patches.
      deterministic: no dropout; else rngs "dropout" and "drop_path".
    """
    scale = (2 * self.depth) ** -0.5
    if self.own_bias:
      bias = RelativePositionBias(self.num_heads, name="relative_bias")(grid)
    drop_path = DropPath(self.drop_path, name="drop")
    attention = Attention(self.num_heads, scale, self.dtype, name="attn")
    y = attention(layer_norm("norm1", self.dtype)(x), bias)
    y = Dropout(self.dropout)(y, deterministic)
    x = x + drop_path(self._scaled(y, "gamma_1"), deterministic)

    y = layer_norm("norm2", self.dtype)(x)
    y = gelu(self._dense(self.mlp_width, 1.0, "fc1")(y))
    y = self._dense(x.shape[-1], scale, "fc2")(y)
    y = Dropout(self.dropout)(y, deterministic)
    return x + drop_path(self._scaled(y, "gamma_2"), deterministic)

  def _dense(self, features: int, scale: float, name: str) -> Dense:
    init = small_normal(scale)
    return Dense(features, dtype=self.dtype, kernel_init=init, name=name)

  def _scaled(self, y: Array, name: str) -> Array:
    if self.layer_scale is None:
      return y
    init = nn.initializers.constant(self.layer_scale)
    gamma = self.param(name, init, (y.shape[-1],))
    return y * gamma.astype(y.dtype)[None, None]


def image_patches(images: Array, patch_size: int) -> Array:
  """The pixels of each patch: `[B, H, W, C]` -> `[B, N, P P C]`.

  Patches are in the order of tokens, row after row, and so are the pixels of a
  patch, its channels last.

  Raises:
    ValueError: P does not divide H and W.
  """
  b, h, w, c = images.shape
  p = patch_size
  if h % p or w % p:
    raise ValueError(
      f"image_patches needs images whose sides {p} divides, got {h} x {w}"
    )
  x = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, (h // p) * (w // p), p * p * c)


def chosen(tokens: Array, places: Array | None) -> Array:
  """The tokens `[B, N, ...]` at places `[B, K]` from 0; all, if None."""
  if places is None:
    return tokens
  places = places.reshape(*places.shape, *[1] * (tokens.ndim - 2))
  return jnp.take_along_axis(tokens, places, axis=1)


class PatchEmbedding(nn.Module):
  """Patches of P x P pixels, each mapped to a vector.

  Attributes:
    patch_size: P.
    width: channels of a vector.
    dtype: of the computation; parameters are float32.
    use_bias: whether one vector is added to all.
  """

  patch_size: int
  width: int
  dtype: DTypeLike = jnp.float32
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Images `[B, H, W, C]` -> `[B, (H / P) (W / P), width]`."""
    p = self.patch_size
    c = x.shape[-1]
    kernel = self.param("kernel", small_normal(), (p, p, c, self.width))
    rows = image_patches(x, p).astype(self.dtype).reshape(-1, p * p * c)
    y = rows @ kernel.reshape(p * p * c, self.width).astype(self.dtype)
    y = y.reshape(x.shape[0], -1, self.width)
    if not self.use_bias:
      return y
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    return y + bias.astype(self.dtype)[None, None]
