"""Masked data modelling: BEiT-3's one objective for images, texts and pairs."""

import jax.numpy as jnp
import numpy as np

from jaxgen.masked.objectives import masked_image_loss
from jaxgen.nn.vit import chosen
from jaxgen.types import Array


def mask_words(
  rng: np.random.Generator,
  tokens: np.ndarray,
  share: float,
  mask_token: int,
  pad_token: int,
  *,
  replace: float = 0.1,
  keep: float = 0.1,
  words: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Masks a share of each text's tokens (Devlin et al. 2019, section 3.1).

  Of a text of n tokens, start and end included, share n rounded to the nearest
  number, at least 1 and at most n - 1, are drawn out of all but the first. A
  drawn one becomes the mask token, but with probability `replace` some word,
  and with `keep` it stays. So the released code of BEiT-3 prepares captions
  (a share of 0.7, the paper 0.6); for pre-training the paper says only that 15%
  of the tokens of texts and 50% of those of texts with an image are masked.

  Args:
    rng: where the draws come from.
    tokens: integers `[B, L]`, padded after their end.
    share: of the tokens, in (0, 1).
    mask_token: what stands for a hidden word.
    pad_token: what follows a text's end.
    replace: probability of some word.
    keep: probability of the token itself.
    words: the first number of a word and the one after the last, for `replace`.

  Returns:
    The masked tokens, and bool `[B, L]`, True where one was drawn.

  Raises:
    ValueError: a text has no two tokens, `share` is out of range, or `words` is
      not given though words are replaced.
  """
  tokens = np.asarray(tokens)
  if not 0 < share < 1:
    raise ValueError(f"share must lie in (0, 1), got {share}")
  if replace > 0 and words is None:
    raise ValueError("mask_words needs the range of words to replace some by")
  lengths = (tokens != pad_token).sum(1)
  if lengths.size and lengths.min() < 2:
    raise ValueError("mask_words needs texts of 2 tokens at least, got fewer")
  counts = np.minimum(_rounded(lengths, share), lengths - 1)
  # The first `count` of a random order of a text's tokens but the first.
  order = rng.random(tokens.shape)
  order[:, 0] = 2.0
  order[np.arange(tokens.shape[1]) >= lengths[:, None]] = 2.0
  mask = order.argsort(1).argsort(1) < counts[:, None]
  fate = rng.random(tokens.shape)
  masked = np.where(mask & (fate < 1 - replace - keep), mask_token, tokens)
  if words is not None:
    other = rng.integers(*words, tokens.shape)
    swapped = mask & (fate >= 1 - replace - keep) & (fate < 1 - keep)
    masked = np.where(swapped, other, masked)
  return masked.astype(tokens.dtype), mask


def most_masked(length: int, share: float) -> int:
  """How many tokens `mask_words` draws of a text of so many, at most."""
  return int(_rounded(np.asarray(length), share))


def _rounded(lengths: np.ndarray, share: float) -> np.ndarray:
  return np.maximum(1, np.floor(lengths * share + 0.5)).astype(int)


def masked_places(mask: Array, most: int) -> tuple[Array, Array]:
  """Where each row of a mask is True, so that only there logits are taken.

  Args:
    mask: bool `[B, N]`.
    most: K, how often a row is True at most; what is beyond is left out.

  Returns:
    Places `[B, K]` in [0, N), rising; and bool `[B, K]`, False for those beyond
    a row's own number, which are of no meaning.
  """
  mask = mask.astype(bool)
  places = jnp.argsort(~mask, axis=1, stable=True)[:, :most]
  return places, chosen(mask, places)


def masked_data_loss(
  image: tuple[Array, Array, Array] | None = None,
  text: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, dict[str, Array]]:
  """BEiT-3's loss of a batch of images, texts or pairs.

  The cross-entropy of masked patches' visual tokens, by mean over them, plus
  that of masked words (Wang et al. 2023, section 2.2). A step of pre-training
  adds those of a batch of each kind; the paper gives no weights.

  Args:
    image: logits `[B, N, K]`, visual tokens `[B, N]` and mask `[B, N]`: of all
      patches, or of `masked_places`.
    text: logits `[B, L, V]`, words `[B, L]` and mask `[B, L]`, likewise.

  Returns:
    The loss, and of each part given its loss and accuracy, "image_loss",
    "image_accuracy", "text_loss", "text_accuracy".

  Raises:
    ValueError: nothing is given, or shapes do not agree.
  """
  parts = {"image": image, "text": text}
  given = {name: part for name, part in parts.items() if part is not None}
  if not given:
    raise ValueError("masked_data_loss needs images or texts, got neither")
  total, metrics = jnp.zeros(()), {}
  for name, part in given.items():
    loss, found = masked_image_loss(*part)
    metrics[f"{name}_loss"] = loss
    metrics[f"{name}_accuracy"] = found["accuracy"]
    total += loss
  return total, metrics
