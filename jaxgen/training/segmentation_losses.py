"""The loss of semantic segmentation, as mmsegmentation 0.11 has it.

BEiT's networks for ADE20K (Bao et al. 2022, section 3.2) were trained with it.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from jaxgen.nn.segmentation import resize
from jaxgen.types import Array

IGNORED = 255


def pixel_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
  """Cross-entropy of pixels, the logits enlarged to the labels' size.

  Pixels of the label 255 add nothing to the sum, which is divided by the number
  of all pixels, theirs too: crops with few labels weigh less.

  Args:
    logits: `[B, h, w, K]`, enlarged bilinearly.
    labels: integers `[B, H, W]` in [0, K), or 255.

  Returns:
    (the mean `[]`, float32, the share of labelled pixels that are right `[]`).
  """
  logits = resize(logits.astype(jnp.float32), *labels.shape[1:])
  labels = labels.astype(jnp.int32)
  known = labels != IGNORED
  losses = optax.losses.softmax_cross_entropy_with_integer_labels(
    logits, jnp.where(known, labels, 0)
  )
  right = (logits.argmax(-1) == labels) & known
  return (losses * known).mean(), right.sum() / jnp.maximum(known.sum(), 1)


def segmentation_loss(
  logits: Array,
  auxiliary: Array | Sequence[Array],
  labels: Array,
  weight: float = 0.4,
) -> tuple[Array, dict[str, Array]]:
  """The main head's cross-entropy and `weight` times the auxiliary heads'.

  Args:
    logits: of the main head, `[B, h, w, K]`.
    auxiliary: of the other, or others, which may be of another size.
    labels: `[B, H, W]`, see `pixel_cross_entropy`.
    weight: of each auxiliary head.

  Returns:
    (the loss `[]`, metrics: both parts, the auxiliary heads' as a sum, and
    accuracies in [0, 1], theirs as a mean).
  """
  main, accuracy = pixel_cross_entropy(logits, labels)
  heads = auxiliary if isinstance(auxiliary, Sequence) else [auxiliary]
  found = [pixel_cross_entropy(head, labels) for head in heads]
  losses, accuracies = (jnp.stack(part) for part in zip(*found, strict=True))
  other = losses.sum()
  metrics = {
    "main": main,
    "auxiliary": other,
    "accuracy": accuracy,
    "auxiliary_accuracy": accuracies.mean(),
  }
  return main + weight * other, metrics
