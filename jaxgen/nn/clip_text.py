"""CLIP's text transformer, Stable Diffusion 1's text encoder.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision", section 2.4: a causal transformer with its normalisations before
the layers, as in GPT-2.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.attention import attention
from jaxgen.nn.layers import Dense, gelu
from jaxgen.types import Array

Activation = Literal["quick_gelu", "gelu"]


class TextFeatures(NamedTuple):
  """What a text transformer says of its tokens.

  Attributes:
    hidden: `[B, N, width]`, one vector a token: the condition of Stable
      Diffusion.
    pooled: `[B, width]`, the vector of the first end-of-text token; CLIP
      projects it into the space that images share.
  """

  hidden: Array
  pooled: Array


def quick_gelu(x: Array) -> Array:
  """x sigmoid(1.702 x), an approximation of GELU.

  Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", section 2; OpenAI's
  CLIP models have it, OpenCLIP's have the exact one.
  """
  return x * jax.nn.sigmoid(1.702 * x)


def layer_norm(name: str, dtype: DTypeLike = jnp.float32) -> nn.LayerNorm:
  """Layer normalisation of epsilon 1e-5, its statistics in float32."""
  return nn.LayerNorm(1e-5, dtype=dtype, use_fast_variance=False, name=name)


class ClipBlock(nn.Module):
  """Self-attention, then two dense layers; both residual.

  x + attention(LN(x)), then x + fc2(act(fc1(LN(x)))).

  Attributes:
    num_heads: heads, each of width / num_heads channels.
    mlp_width: channels between the dense layers.
    num_layers: of the transformer, for the initial weights.
    activation: the nonlinearity, `quick_gelu` or the exact GELU.
    dtype: of the computation; parameters are float32.
    causal: no token sees those after it, as in text; images have no order.
  """

  num_heads: int
  mlp_width: int
  num_layers: int
  activation: Activation = "quick_gelu"
  dtype: DTypeLike = jnp.float32
  causal: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, N, width]` to its own shape."""
    b, n, width = x.shape
    last_std = (2 * self.num_layers * width) ** -0.5  # of a residual branch
    y = layer_norm("norm1", self.dtype)(x)
    q, k, v = (
      self._dense(width, width**-0.5, name)(y).reshape(b, n, self.num_heads, -1)
      for name in ("q", "k", "v")
    )
    order = jnp.tril(jnp.ones((n, n), bool)) if self.causal else None
    y = attention(q, k, v, mask=order)
    x = x + self._dense(width, last_std, "proj_out")(y.reshape(b, n, width))

    y = layer_norm("norm2", self.dtype)(x)
    y = self._dense(self.mlp_width, (2 * width) ** -0.5, "fc1")(y)
    y = quick_gelu(y) if self.activation == "quick_gelu" else gelu(y)
    return x + self._dense(width, last_std, "fc2")(y)

  def _dense(self, features: int, std: float, name: str) -> Dense:
    init = nn.initializers.normal(std)
    return Dense(features, dtype=self.dtype, kernel_init=init, name=name)


class ClipText(nn.Module):
  """CLIP's text transformer; the defaults are ViT-L/14's.

  A network without its last layers gives their predecessors' output, the final
  normalisation applied: Stable Diffusion 2 has OpenCLIP's with one layer less.

  Attributes:
    vocab_size: tokens.
    width: channels.
    num_layers: blocks.
    num_heads: heads of the attention.
    mlp_width: channels between a block's dense layers.
    max_length: positions, the start and the end of the text included.
    end_token: the token that ends a text.
    activation: the nonlinearity, `quick_gelu` or the exact GELU.
    dtype: of attention and dense layers. Parameters, normalisation statistics,
      softmax and the output are float32.
    remat: recompute each block's activations in the backward pass.
  """

  vocab_size: int = 49_408
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_width: int = 3072
  max_length: int = 77
  end_token: int = 49_407
  activation: Activation = "quick_gelu"
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, tokens: Array) -> TextFeatures:
    """The features of tokens `[B, N]`, integers, with N <= `max_length`.

    A text without `end_token` is pooled at its first token.

    Raises:
      ValueError: if the tokens have another shape or type or are too many, the
        heads do not divide the width, or there is no such activation.
    """
    self._check(tokens)
    normal = nn.initializers.normal
    embed = nn.Embed(
      self.vocab_size,
      self.width,
      embedding_init=normal(0.02),
      name="token_embedding",
    )
    positions = self.param(
      "position_embedding", normal(0.01), (self.max_length, self.width)
    )
    x = embed(tokens) + positions[None, : tokens.shape[1]]
    x = x.astype(self.dtype)
    module = nn.remat(ClipBlock) if self.remat else ClipBlock
    for i in range(self.num_layers):
      x = module(
        self.num_heads,
        self.mlp_width,
        self.num_layers,
        self.activation,
        self.dtype,
        name=f"block_{i}",
      )(x)
    hidden = layer_norm("norm_out")(x)
    end = jnp.argmax(tokens == self.end_token, axis=1)
    pooled = jnp.take_along_axis(hidden, end[:, None, None], axis=1)
    return TextFeatures(hidden, pooled[:, 0])

  def _check(self, tokens: Array) -> None:
    check_tokens(tokens, self.max_length, "ClipText")
    if self.width % self.num_heads:
      raise ValueError(
        f"ClipText needs a width divisible by its {self.num_heads} heads, got "
        f"{self.width}."
      )
    if self.activation not in ("quick_gelu", "gelu"):
      raise ValueError(
        f"ClipText needs activation 'quick_gelu' or 'gelu', got "
        f"{self.activation!r}."
      )


def check_tokens(tokens: Array, max_length: int, name: str) -> None:
  """Raises ValueError unless tokens are integers `[B, N]`, N <= max_length."""
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(f"{name} needs integer tokens, got {tokens.dtype}.")
  if tokens.ndim != 2 or tokens.shape[1] > max_length:
    raise ValueError(
      f"{name} needs tokens of shape [B, N] with N <= {max_length}, got "
      f"{tokens.shape}."
    )


# Radford et al. 2021, Table 20; and OpenCLIP's (Cherti et al. 2023) largest of
# width 1024, whose activation is the exact GELU: Stable Diffusion 2's.
CLIP_TEXTS = {
  "vit_b_32": ClipText(width=512, num_heads=8, mlp_width=2048),
  "vit_l_14": ClipText(),
  "open_vit_h_14": ClipText(
    width=1024,
    num_layers=24,
    num_heads=16,
    mlp_width=4096,
    activation="gelu",
  ),
}
