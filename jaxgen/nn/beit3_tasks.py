"""BEiT-3's networks of tasks: the trunk with a head (see `jaxgen.nn.beit3`).

Wang et al. 2023, section 3, and the released code, microsoft/unilm's beit3.
The captioner is in `jaxgen.nn.captioner`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxgen.nn.beit3 import Beit3
from jaxgen.nn.layers import Dense, gelu
from jaxgen.nn.multiway import layer_norm
from jaxgen.nn.packing import Packing
from jaxgen.nn.vit import chosen, small_normal
from jaxgen.types import Array


def vocabulary(size: int, name: str | None, trunk: Beit3) -> Dense:
  """The layer that gives each of `size` tokens its logit, of trunk's dtype."""
  init = small_normal()
  return Dense(size, dtype=trunk.dtype, kernel_init=init, name=name)


class MaskedDataModel(nn.Module):
  """Predicts masked words and visual tokens (Wang et al. 2023, section 2.2).

  Attributes:
    trunk: for images, texts and pairs alike.
    num_tokens: of the image tokenizer's vocabulary.
  """

  trunk: Beit3
  num_tokens: int = 8192

  @nn.compact
  def __call__(
    self,
    images: Array | None = None,
    tokens: Array | None = None,
    padding: Array | Packing | None = None,
    *,
    patch_mask: Array | None = None,
    patches: Array | None = None,
    words: Array | None = None,
    deterministic: bool = True,
  ) -> tuple[Array | None, Array | None]:
    """Logits of visual tokens and of words, float32; None where absent.

    Args:
      images: `[B, H, W, 3]`, or None.
      tokens: `[B, L]`, masked words replaced, or None.
      padding: `[B, L]`, True where a token is padding; or a `Packing` of it.
      patch_mask: `[B, N]`, True where a patch is masked.
      patches: the patches wanted, `[B, K]` from 0; by default all N.
      words: the words wanted, `[B, J]` from 0; by default all L.
      deterministic: see the trunk.

    Returns:
      `[B, K, num_tokens]` and `[B, J, vocab_size]`.
    """
    encoded = self.trunk(
      images,
      tokens,
      padding,
      patch_mask=patch_mask,
      deterministic=deterministic,
    )
    visual, text = None, None
    if images is not None:
      head = vocabulary(self.num_tokens, "image_head", self.trunk)
      visual = _float(head(chosen(encoded.image[:, 1:], patches)))
    if tokens is not None:
      head = vocabulary(self.trunk.vocab_size, "text_head", self.trunk)
      text = _float(head(chosen(encoded.text, words)))
    return visual, text


class ImageClassifier(nn.Module):
  """Classifies images by the mean of their patches: dense(LN(mean)).

  Attributes:
    trunk: without its last normalisation.
    num_classes: labels.
    head_scale: of the last layer's initial weights.
  """

  trunk: Beit3
  num_classes: int = 1000
  head_scale: float = 0.001

  @nn.compact
  def __call__(self, images: Array, deterministic: bool = True) -> Array:
    """Logits `[B, num_classes]`, float32."""
    encoded = self.trunk(images, deterministic=deterministic)
    h = layer_norm("fc_norm")(_float(encoded.image)[:, 1:].mean(1))
    return _head(self.num_classes, "head", self.head_scale)(h)


class ImageBackbone(nn.Module):
  """The image half, to take the place of `jaxgen.nn.beit.Beit` under a head.

  Attributes:
    trunk: without its last normalisation, which no block's output has.
  """

  trunk: Beit3

  @property
  def patch_size(self) -> int:
    """Height and width of a patch."""
    return self.trunk.patch_size

  @property
  def width(self) -> int:
    """Channels."""
    return self.trunk.width

  @property
  def dtype(self) -> DTypeLike:
    """Of the computation."""
    return self.trunk.dtype

  @nn.compact
  def __call__(
    self, x: Array, mask: Array | None = None, deterministic: bool = True
  ) -> tuple[Array, ...]:
    """The outputs of all blocks, `[B, N + 1, width]` each, none normalised.

    Args:
      x: images `[B, H, W, C]`, of N = (H / P) (W / P) patches.
      mask: `[B, N]`, True where a patch is replaced by the mask token.
      deterministic: see the trunk.
    """
    encoded = self.trunk(x, patch_mask=mask, deterministic=deterministic)
    return encoded.blocks


class Retrieval(nn.Module):
  """A dual encoder: unit vectors of images and of texts.

  The class token of an image and the first token of a text, each times a matrix
  of its own. Their products are scaled by exp(s), s at first log(1 / 0.07)
  (Radford et al. 2021); `jaxgen.masked.contrastive_loss` compares them.

  Attributes:
    trunk: whose two halves are run apart.
  """

  trunk: Beit3

  def setup(self):
    """The two matrices and s."""
    width, init = self.trunk.width, small_normal()
    self.vision_head = Dense(width, use_bias=False, kernel_init=init)
    self.language_head = Dense(width, use_bias=False, kernel_init=init)
    scale = nn.initializers.constant(np.log(1 / 0.07))
    self.logit_scale = self.param("logit_scale", scale, ())

  def __call__(
    self,
    images: Array,
    tokens: Array,
    padding: Array | None = None,
    deterministic: bool = True,
  ) -> tuple[Array, Array, Array]:
    """Images' vectors `[B, C]`, texts' vectors `[B, C]`, and exp(s)."""
    return (
      self.of_images(images, deterministic),
      self.of_texts(tokens, padding, deterministic),
      jnp.exp(self.logit_scale),
    )

  def of_images(self, images: Array, deterministic: bool = True) -> Array:
    """Unit vectors `[B, C]`, float32, of images `[B, H, W, 3]`."""
    h = self.trunk(images, deterministic=deterministic).image
    return _unit(self.vision_head(_float(h[:, 0])))

  def of_texts(
    self,
    tokens: Array,
    padding: Array | None = None,
    deterministic: bool = True,
  ) -> Array:
    """Unit vectors `[B, C]`, float32, of texts `[B, L]`."""
    h = self.trunk(None, tokens, padding, deterministic=deterministic).text
    return _unit(self.language_head(_float(h[:, 0])))


class QuestionAnswering(nn.Module):
  """Answers of a question about an image, out of a list (VQAv2's 3,129).

  p = tanh(dense(LN(class token))), then dense, LN, gelu, dense.

  Attributes:
    trunk: without its last normalisation.
    num_answers: in the list.
  """

  trunk: Beit3
  num_answers: int = 3129

  @nn.compact
  def __call__(
    self,
    images: Array,
    tokens: Array,
    padding: Array | None = None,
    deterministic: bool = True,
  ) -> Array:
    """Logits `[B, num_answers]`, float32, each of its own yes or no."""
    encoded = self.trunk(images, tokens, padding, deterministic=deterministic)
    width = self.trunk.width
    h = layer_norm("pooler_norm")(_float(encoded.image)[:, 0])
    h = jnp.tanh(_head(width, "pooler")(h))
    h = layer_norm("norm")(_head(2 * width, "dense1")(h))
    return _head(self.num_answers, "dense2")(gelu(h))


class VisualReasoning(nn.Module):
  """Whether a text is true of two images (NLVR2).

  Each image is paired with the text; the class token and the text's first one,
  of both pairs, [4 C], go through LN, dense, LN, gelu, dense.

  Attributes:
    trunk: with its last normalisation.
    num_classes: 2, false and true.
    head_scale: of the dense layers' initial weights.
  """

  trunk: Beit3
  num_classes: int = 2
  head_scale: float = 0.001

  @nn.compact
  def __call__(
    self,
    images: Array,
    others: Array,
    tokens: Array,
    padding: Array | None = None,
    deterministic: bool = True,
  ) -> Array:
    """Logits `[B, num_classes]`, float32, of two images `[B, H, W, 3]` each."""
    both = jnp.concatenate([images, others])
    twice = lambda x: None if x is None else jnp.concatenate([x, x])
    encoded = self.trunk(
      both, twice(tokens), twice(padding), deterministic=deterministic
    )
    h = jnp.concatenate([encoded.image[:, 0], encoded.text[:, 0]], axis=-1)
    h = jnp.concatenate(jnp.split(_float(h), 2), axis=-1)
    h = layer_norm("norm1")(h)
    h = _head(2 * self.trunk.width, "dense1", self.head_scale)(h)
    h = gelu(layer_norm("norm2")(h))
    return _head(self.num_classes, "dense2", self.head_scale)(h)


def _head(features: int, name: str, scale: float = 1.0) -> Dense:
  return Dense(features, kernel_init=small_normal(scale), name=name)


def _float(h: Array) -> Array:
  return h.astype(jnp.float32)


def _unit(h: Array) -> Array:
  """h / max(|h|, 1e-12)."""
  square = jnp.square(h).sum(-1, keepdims=True)
  return h * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
