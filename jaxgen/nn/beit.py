"""BEiT's networks: the backbone, masked image modelling, classification.

Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers". The paper's
main tables are of a plain vision transformer with absolute positions; the
released networks have LayerScale and relative position biases in their place
(its App. A), which are the defaults here.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.layers import Dense
from jaxgen.nn.vit import (
  Block,
  PatchEmbedding,
  RelativePositionBias,
  RelativePositions,
  chosen,
  layer_norm,
  small_normal,
)
from jaxgen.types import Array


class Beit(nn.Module):
  """The backbone; the defaults are BEiT-B's.

  Attributes:
    patch_size: height and width of a patch.
    width: channels.
    num_layers: blocks.
    num_heads: heads of the attention.
    mlp_width: channels between a block's dense layers.
    absolute_positions: a learnt vector for every token is added at the start.
    relative_positions: biases of the attention: "shared" by all blocks, as in
      pre-training and linear probing; one table "per_block", as in fine-tuning
      and segmentation, where they start as copies; or "none".
    layer_scale: initial gamma of the blocks; None for no gamma.
    mask_token: whether there is a vector that stands for masked patches.
    dropout: rate after the dense layers.
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
  absolute_positions: bool = False
  relative_positions: RelativePositions = "shared"
  layer_scale: float | None = 0.1
  mask_token: bool = True
  dropout: float = 0.0
  drop_path: float = 0.0
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def setup(self):
    """What is used from outside as well."""
    if self.relative_positions == "shared":
      self.relative_bias = RelativePositionBias(self.num_heads)

  @nn.compact
  def __call__(
    self, x: Array, mask: Array | None = None, deterministic: bool = True
  ) -> tuple[Array, ...]:
    """The outputs of all blocks, `[B, N + 1, width]` each, none normalised.

    Args:
      x: images `[B, H, W, C]`, of N = (H / P) (W / P) patches.
      mask: `[B, N]`, True or 1 where a patch is replaced by the mask token.
      deterministic: no dropout; else rngs "dropout" and "drop_path".

    Raises:
      ValueError: if x or the mask does not fit, or a field is wrong.
    """
    self._check(x, mask)
    grid = x.shape[1] // self.patch_size, x.shape[2] // self.patch_size
    patches = PatchEmbedding(
      self.patch_size, self.width, self.dtype, name="patch_embed"
    )(x)
    shape = (1, 1, self.width)
    if self.mask_token:
      token = self.param("mask_token", small_normal(), shape)
      if mask is not None:
        w = mask[..., None].astype(patches.dtype)
        patches = patches * (1 - w) + token.astype(patches.dtype) * w
    cls = self.param("cls_token", small_normal(), shape).astype(patches.dtype)
    cls = jnp.broadcast_to(cls, (x.shape[0], 1, self.width))
    h = jnp.concatenate([cls, patches], axis=1)
    if self.absolute_positions:
      shape = (1, h.shape[1], self.width)
      h = h + self.param("pos_embed", small_normal(), shape).astype(h.dtype)
    return self._blocks(h, grid, deterministic)

  def _blocks(
    self, h: Array, grid: tuple[int, int], deterministic: bool
  ) -> tuple[Array, ...]:
    bias = self.shared_bias(grid)
    outputs = []
    for i in range(self.num_layers):
      rate = self.drop_path * i / max(1, self.num_layers - 1)
      block = make_block(self, i + 1, rate, f"block_{i}")
      h = block(h, bias, grid, deterministic)
      outputs.append(h)
    return tuple(outputs)

  def shared_bias(self, grid: tuple[int, int]) -> Array | None:
    """The bias `[heads, N + 1, N + 1]` that the blocks share, if they do."""
    shared = self.relative_positions == "shared"
    return self.relative_bias(grid) if shared else None

  def _check(self, x: Array, mask: Array | None) -> None:
    p = self.patch_size
    if x.ndim != 4 or x.shape[1] % p or x.shape[2] % p:
      raise ValueError(
        f"Beit needs images [B, H, W, C] with H and W divisible by {p}, got "
        f"{x.shape}."
      )
    patches = (x.shape[0], (x.shape[1] // p) * (x.shape[2] // p))
    if mask is not None and not self.mask_token:
      raise ValueError("Beit without a mask token takes no mask.")
    if mask is not None and mask.shape != patches:
      raise ValueError(
        f"Beit needs a mask of shape {patches}, got {mask.shape}."
      )
    if self.width % self.num_heads:
      raise ValueError(
        f"Beit needs a width divisible by its {self.num_heads} heads, got "
        f"{self.width}."
      )
    if self.relative_positions not in ("none", "shared", "per_block"):
      raise ValueError(
        f"Beit needs relative_positions 'none', 'shared' or 'per_block', got "
        f"{self.relative_positions!r}."
      )


def make_block(
  backbone: Beit, depth: int, drop_path: float, name: str
) -> Callable[..., Array]:
  """A block like a backbone's, to be called as `Block` is.

  Args:
    backbone: whose sizes it has.
    depth: its number, from 1.
    drop_path: its rate of stochastic depth.
    name: of the module.
  """
  module = nn.remat(Block, static_argnums=(3, 4)) if backbone.remat else Block
  return module(
    backbone.num_heads,
    backbone.mlp_width,
    depth,
    backbone.layer_scale,
    backbone.dropout,
    drop_path,
    backbone.relative_positions == "per_block",
    backbone.dtype,
    name=name,
  )


class MaskedImageModel(nn.Module):
  """Predicts the visual tokens of patches (Bao et al. 2022, Eq. 1).

  Attributes:
    backbone: with a mask token.
    num_tokens: of the tokenizer's vocabulary.
  """

  backbone: Beit
  num_tokens: int = 8192

  @nn.compact
  def __call__(
    self,
    x: Array,
    mask: Array | None = None,
    deterministic: bool = True,
    patches: Array | None = None,
  ) -> Array:
    """Logits of visual tokens.

    Args:
      x: images, see the backbone.
      mask: `[B, N]`, True or 1 where a patch is replaced by the mask token.
      deterministic: no dropout; else rngs "dropout" and "drop_path".
      patches: the patches wanted, `[B, K]` from 0; by default all N.

    Returns:
      `[B, K, num_tokens]`, float32.
    """
    h = self.backbone(x, mask, deterministic)[-1][:, 1:]
    h = chosen(h, patches)
    h = layer_norm("norm", self.backbone.dtype)(h)
    head = _token_head(self.backbone, self.num_tokens, "lm_head")
    return head(h).astype(jnp.float32)


class PatchAggregationModel(nn.Module):
  """`MaskedImageModel`, and the tokens once more by way of the class token.

  The patch aggregation of Peng et al. 2022, "BEiT v2". Two more blocks get the
  last block's class token with the patches of an earlier block: what these lack
  must pass through the class token, which so learns to stand for the image. The
  blocks are left out afterwards.

  Attributes:
    backbone: with a mask token.
    num_tokens: of the tokenizer's vocabulary.
    early_layer: l, counted from 1: 9 for BEiT v2-B, 21 for L.
    extra_layers: blocks of the aggregation.
    shared_head: one normalisation and one last layer for both predictions.
  """

  backbone: Beit
  num_tokens: int = 8192
  early_layer: int = 9
  extra_layers: int = 2
  shared_head: bool = True

  @nn.compact
  def __call__(
    self,
    x: Array,
    mask: Array | None = None,
    deterministic: bool = True,
    patches: Array | None = None,
  ) -> tuple[Array, Array]:
    """Two logits `[B, K, num_tokens]`, float32: main and aggregated.

    The arguments are those of `MaskedImageModel`.

    Raises:
      ValueError: if the backbone has no early_layer.
    """
    first, backbone = self.early_layer, self.backbone
    if not 1 <= first <= backbone.num_layers:
      raise ValueError(
        f"PatchAggregationModel needs early_layer in [1, "
        f"{backbone.num_layers}], got {first}."
      )
    p = backbone.patch_size
    grid = x.shape[1] // p, x.shape[2] // p
    outputs = backbone(x, mask, deterministic)
    h = jnp.concatenate([outputs[-1][:, :1], outputs[first - 1][:, 1:]], axis=1)
    bias = backbone.shared_bias(grid)
    last = max(backbone.num_layers, first + self.extra_layers) - 1
    for k in range(self.extra_layers):
      rate = backbone.drop_path * (first + k) / max(1, last)
      block = make_block(backbone, first + k + 1, rate, f"aggregation_{k}")
      h = block(h, bias, grid, deterministic)

    def heads(prefix: str) -> tuple[nn.LayerNorm, Dense]:
      norm = layer_norm(prefix + "norm", backbone.dtype)
      return norm, _token_head(backbone, self.num_tokens, prefix + "lm_head")

    norm, head = heads("")
    main = head(norm(chosen(outputs[-1][:, 1:], patches))).astype(jnp.float32)
    if not self.shared_head:
      norm, head = heads("aggregation_")
    aggregated = head(norm(chosen(h[:, 1:], patches)))
    return main, aggregated.astype(jnp.float32)


def _token_head(backbone: Beit, num_tokens: int, name: str) -> Dense:
  return Dense(
    num_tokens,
    dtype=backbone.dtype,
    kernel_init=small_normal(),
    name=name,
  )


class Classifier(nn.Module):
  """Classifies images: by the mean of their patches, or by the class token.

  Attributes:
    backbone: as a rule without a mask token and with biases "per_block".
    num_classes: labels.
    mean_pool: LN of the mean of the last block's patches, which is how BEiT and
      BEiT v2 are fine-tuned; if False the class token of their LN.
    head_scale: of the last layer's initial weights.
  """

  backbone: Beit
  num_classes: int = 1000
  mean_pool: bool = True
  head_scale: float = 0.001

  @nn.compact
  def __call__(self, x: Array, deterministic: bool = True) -> Array:
    """Logits `[B, num_classes]`, float32."""
    h = self.backbone(x, None, deterministic)[-1].astype(jnp.float32)
    if self.mean_pool:
      h = layer_norm("fc_norm")(h[:, 1:].mean(1))
    else:
      h = layer_norm("norm")(h)[:, 0]
    init = small_normal(self.head_scale)
    return Dense(self.num_classes, kernel_init=init, name="head")(h)


_LARGE = Beit(
  width=1024,
  num_layers=24,
  num_heads=16,
  mlp_width=4096,
  layer_scale=1e-5,
)
# Bao et al. 2022, Table 12 and App. A: the released networks, and the plain
# vision transformers of the main tables.
BEITS = {
  "base": Beit(),
  "large": _LARGE,
  "base_plain": Beit(
    absolute_positions=True, relative_positions="none", layer_scale=None
  ),
  "large_plain": _LARGE.clone(
    absolute_positions=True, relative_positions="none", layer_scale=None
  ),
}
