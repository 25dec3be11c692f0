"""BEiT-3 as a captioner: masked words of a text that looks at an image.

Wang et al. 2023, section 3.1, "Image Captioning"; Bao et al. 2020, "UniLMv2";
the released code, microsoft/unilm's beit3.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nn.beit3 import FIRST_POSITION, Beit3
from jaxgen.nn.beit3_tasks import vocabulary
from jaxgen.nn.multiway import Memory
from jaxgen.nn.vit import chosen
from jaxgen.types import Array

Memories = tuple[Memory, ...]  # of every block


def caption_mask(num_image: int, length: int) -> np.ndarray:
  """Where the tokens of an image and of its caption may look.

  Image tokens look at the image alone, words at the image, at the words before
  them and at themselves.

  Args:
    num_image: tokens of the image, the class token included.
    length: tokens of the caption.

  Returns:
    bool `[n, n]` for n = num_image + length, the token that looks first.
  """
  n = num_image + length
  mask = np.tri(n, dtype=bool)
  mask[:num_image, :num_image] = True
  return mask


def empty_memory(trunk: Beit3, batch: int, length: int) -> Memories:
  """Room for the keys and values of `length` words of each caption.

  Raises:
    ValueError: the trunk has no positions for so many.
  """
  longest = trunk.text_positions - FIRST_POSITION
  if length > longest:
    raise ValueError(
      f"Captions may have {longest} tokens at most, got a length of {length}."
    )
  shape = (batch, length, trunk.num_heads, trunk.width // trunk.num_heads)
  zeros = jnp.zeros(shape, trunk.dtype)
  return ((zeros, zeros),) * trunk.num_layers


class Captioner(nn.Module):
  """Predicts masked words of captions, and writes captions word by word.

  In writing, a mask token stands where the next word will be, and is replaced
  by it. No image token looks at a word, so that an image is read once: `read`
  gives what its tokens are known by, and `step` the next word's logits.

  Attributes:
    trunk: with its last normalisation.
  """

  trunk: Beit3

  def setup(self):
    """The layer of the words' logits."""
    self.mlm_head = vocabulary(self.trunk.vocab_size, None, self.trunk)

  def __call__(
    self,
    images: Array,
    tokens: Array,
    padding: Array | None = None,
    words: Array | None = None,
    deterministic: bool = True,
  ) -> Array:
    """Logits of words, `[B, J, vocab_size]`, float32.

    Args:
      images: `[B, H, W, 3]`.
      tokens: `[B, L]`, masked words replaced.
      padding: `[B, L]`, True where a token is padding.
      words: the words wanted, `[B, J]` from 0; by default all L.
      deterministic: see the trunk.
    """
    patch = self.trunk.patch_size
    num_image = 1 + (images.shape[1] // patch) * (images.shape[2] // patch)
    encoded = self.trunk(
      images,
      tokens,
      padding,
      attention_mask=jnp.asarray(caption_mask(num_image, tokens.shape[1])),
      deterministic=deterministic,
    )
    return self._logits(chosen(encoded.text, words))

  def read(self, images: Array) -> Memories:
    """Keys and values `[B, N + 1, heads, d]` of images `[B, H, W, 3]`."""
    return self.trunk(images, pair=True).memory

  def step(
    self, words: Array, at: Array, image: Memories, text: Memories, mask: int
  ) -> tuple[Array, Memories]:
    """The logits of the word after `words`.

    Args:
      words: integers `[B]`, the captions' last words so far.
      at: their place in the captions, from 0; one number.
      image: what `read` gave of each caption's image.
      text: keys and values of the words before; see `empty_memory`.
      mask: the mask token.

    Returns:
      Logits `[B, vocab_size]`, float32, and `text` with the words of now.
    """
    num_image, length = image[0][0].shape[1], text[0][0].shape[1]
    tokens = jnp.stack([words, jnp.full_like(words, mask)], axis=1)
    known = jnp.ones((2, num_image), bool)
    before = jnp.broadcast_to(jnp.arange(length)[None] < at, (2, length))
    allowed = [known, before, jnp.tri(2, dtype=bool)]
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), image, text)
    encoded = self.trunk(
      None,
      tokens,
      attention_mask=jnp.concatenate(allowed, axis=1),
      past=joined,
      first=at,
      pair=True,
    )
    # The mask token's own keys and values, the second ones, are not kept.
    text = jax.tree.map(
      lambda old, new: jax.lax.dynamic_update_slice(
        old, new[:, :1].astype(old.dtype), (0, at, 0, 0)
      ),
      text,
      encoded.memory,
    )
    return self._logits(encoded.text[:, 1]), text

  def _logits(self, h: Array) -> Array:
    return self.mlm_head(h).astype(jnp.float32)
