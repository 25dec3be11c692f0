"""Captions of images: which words are hidden, the loss, and their writing."""

import jax
import jax.numpy as jnp
import optax

from jaxgen.masked.beam_search import beam_search
from jaxgen.nn.captioner import Captioner, empty_memory
from jaxgen.types import Array, PyTree


def caption_loss(
  logits: Array,
  tokens: Array,
  mask: Array,
  *,
  smoothing: float = 0.1,
  drop_worst: Array | float = 0.0,
) -> tuple[Array, dict[str, Array]]:
  """Cross-entropy of masked words, smoothed, without those that fit worst.

  KL(q || p) of every masked word, q = 1 - smoothing at the word and
  smoothing / (V - 1) at every other; then the mean over the masked words of the
  batch, but for the share `drop_worst` of the largest (released code of BEiT-3,
  Wang et al. 2023: 0.2 after 12,000 steps, 0 before).

  Args:
    logits: `[B, J, V]`.
    tokens: the words, integers `[B, J]`.
    mask: `[B, J]`, True or 1 where a word is masked.
    smoothing: of the labels, in [0, 1).
    drop_worst: share of words left out, in [0, 1); may be traced. What is left
      of n words is (1 - drop_worst) n, rounded down.

  Returns:
    The loss, and the share of masked words predicted right, "accuracy".

  Raises:
    ValueError: the shapes do not agree.
  """
  if not logits.shape[:2] == tokens.shape == mask.shape:
    raise ValueError(
      "caption_loss needs logits [B, J, V], tokens and mask [B, J], got "
      f"{logits.shape}, {tokens.shape} and {mask.shape}."
    )
  size = logits.shape[-1]
  logits = logits.astype(jnp.float32)
  others = smoothing / (size - 1)
  target = jax.nn.one_hot(tokens, size) * (1 - smoothing - others) + others
  # A smoothing of 0 gives 0 log 0, which counts as 0.
  entropy = jax.scipy.special.entr(target).sum(-1)
  loss = optax.softmax_cross_entropy(logits, target) - entropy
  masked = mask.astype(bool)
  count = masked.sum()
  # A thousandth, lest 0.8 * 5 = 3.9999998 lose a word to rounding.
  kept = jnp.floor((1.0 - drop_worst) * count + 1e-3)
  order = jnp.where(masked, loss, jnp.inf).ravel().argsort()
  rank = order.argsort().reshape(loss.shape)
  loss = jnp.where(rank < kept, loss, 0.0).sum() / jnp.maximum(kept, 1.0)
  right = ((logits.argmax(-1) == tokens) & masked).sum()
  return loss, {"accuracy": right / jnp.maximum(count, 1)}


def write_captions(
  network: Captioner,
  params: PyTree,
  images: Array,
  *,
  start: int,
  end: int,
  pad: int,
  mask: int,
  num_beams: int = 3,
  length_penalty: float = 0.6,
  max_length: int = 32,
) -> tuple[Array, Array]:
  """Captions of images by beam search; one program under `jax.jit`.

  The defaults are those of BEiT-3 (Wang et al. 2023, App. C, and its code).

  Args:
    network: the captioner.
    params: its parameters.
    images: `[B, H, W, 3]`.
    start, end, pad, mask: the tokenizer's marks.
    num_beams, length_penalty, max_length: see `beam_search`.

  Returns:
    Tokens `[B, max_length]` and scores `[B]`.
  """
  variables = {"params": params}
  image = network.apply(variables, images, method="read")
  image = jax.tree.map(lambda leaf: leaf.repeat(num_beams, 0), image)

  def step(memory: PyTree, words: Array, at: Array) -> tuple[Array, PyTree]:
    return network.apply(
      variables, words, at, image, memory, mask, method="step"
    )

  batch = len(images)
  return beam_search(
    step,
    empty_memory(network.trunk, batch * num_beams, max_length),
    batch,
    start=start,
    end=end,
    pad=pad,
    num_beams=num_beams,
    length_penalty=length_penalty,
    max_length=max_length,
  )
