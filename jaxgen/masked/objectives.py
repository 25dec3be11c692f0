"""What networks of masked images are trained for."""

import jax.numpy as jnp
import optax

from jaxgen.types import Array


def masked_image_loss(
  logits: Array, tokens: Array, mask: Array
) -> tuple[Array, dict[str, Array]]:
  """Cross-entropy of masked patches' visual tokens (Bao et al. 2022, Eq. 1).

  -mean over masked patches i of all images of log p(z_i | x^M).

  Args:
    logits: `[B, N, vocabulary]`.
    tokens: z, integers `[B, N]`.
    mask: `[B, N]`, True or 1 where a patch is masked.

  Returns:
    The loss, and the share of masked patches predicted right, "accuracy".

  Raises:
    ValueError: the shapes do not agree.
  """
  if not logits.shape[:2] == tokens.shape == mask.shape:
    raise ValueError(
      "masked_image_loss needs logits [B, N, K], tokens and mask [B, N], got "
      f"{logits.shape}, {tokens.shape} and {mask.shape}"
    )
  weight = mask.astype(jnp.float32)
  weight = weight / jnp.maximum(weight.sum(), 1.0)
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
  right = (logits.argmax(-1) == tokens).astype(jnp.float32)
  return (entropy * weight).sum(), {"accuracy": (right * weight).sum()}
