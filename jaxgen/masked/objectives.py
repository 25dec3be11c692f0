"""What networks of masked images are trained for."""

import jax.numpy as jnp
import optax

from jaxgen.nn.norm_ema import unit
from jaxgen.types import Array


def masked_image_loss(
  logits: Array, tokens: Array, mask: Array
) -> tuple[Array, dict[str, Array]]:
  """Cross-entropy of masked patches' visual tokens (Bao et al. 2022, Eq. 1).

  -mean over masked patches i of all images of log p(z_i | x^M). With a mask of
  ones it is the ablation that recovers all tokens (Table 4).

  Args:
    logits: `[B, N, vocabulary]`.
    tokens: z, integers `[B, N]`.
    mask: `[B, N]`, True or 1 where a patch counts: where it is masked.

  Returns:
    The loss, and the share of those patches predicted right, "accuracy".

  Raises:
    ValueError: the shapes do not agree.
  """
  if not logits.shape[:2] == tokens.shape == mask.shape:
    raise ValueError(
      "masked_image_loss needs logits [B, N, K], tokens and mask [B, N], got "
      f"{logits.shape}, {tokens.shape} and {mask.shape}"
    )
  weight = _weights(mask)
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
  right = (logits.argmax(-1) == tokens).astype(jnp.float32)
  return (entropy * weight).sum(), {"accuracy": (right * weight).sum()}


def masked_pixel_loss(predicted: Array, patches: Array, mask: Array) -> Array:
  """Squared error of masked patches' pixels (Bao et al. 2022, Table 4).

  The ablation that recovers pixels in the place of visual tokens: the mean over
  masked patches of all images, and over the values of a patch, of
  (predicted - pixel)^2. Which error the paper takes is not in the released
  code, which has no such ablation; the square is ours.

  Args:
    predicted: `[B, N, P P C]`.
    patches: `[B, N, P P C]`; see `image_patches`.
    mask: `[B, N]`, True or 1 where a patch counts.

  Raises:
    ValueError: the shapes do not agree.
  """
  if predicted.shape != patches.shape or predicted.shape[:2] != mask.shape:
    raise ValueError(
      "masked_pixel_loss needs predicted and patches [B, N, K] and mask "
      f"[B, N], got {predicted.shape}, {patches.shape} and {mask.shape}"
    )
  error = jnp.square(predicted - patches.astype(jnp.float32)).mean(-1)
  return (error * _weights(mask)).sum()


def patch_aggregation_loss(
  logits: tuple[Array, Array], tokens: Array, mask: Array
) -> tuple[Array, dict[str, Array]]:
  """`masked_image_loss` of both predictions (Peng et al. 2022, "BEiT v2").

  Args:
    logits: of `PatchAggregationModel`, the main ones and the aggregated.
    tokens: integers `[B, N]`.
    mask: `[B, N]`, True or 1 where a patch is masked.

  Returns:
    The sum, and "main" and "aggregated", the parts, with their "accuracy" and
    "aggregated_accuracy".

  Raises:
    ValueError: the shapes do not agree.
  """
  main, shares = masked_image_loss(logits[0], tokens, mask)
  aggregated, others = masked_image_loss(logits[1], tokens, mask)
  return main + aggregated, {
    "main": main,
    "aggregated": aggregated,
    "accuracy": shares["accuracy"],
    "aggregated_accuracy": others["accuracy"],
  }


def vq_kd_loss(
  features: Array, target: Array, quantizer_loss: Array
) -> tuple[Array, dict[str, Array]]:
  """What a VQ-KD tokenizer is trained for (Peng et al. 2022, "BEiT v2").

  mean over patches of (1 - cos(o_i, t_i)) + the quantizer's loss. The paper's
  third term, of the codes, is a moving average in its code.

  Args:
    features: o of the decoder, `[B, N, T]`.
    target: t of the teacher, of the same shape.
    quantizer_loss: `[]`.

  Returns:
    The loss, and its parts, "rec" and "quant".

  Raises:
    ValueError: the shapes do not agree.
  """
  if features.shape != target.shape:
    raise ValueError(
      "vq_kd_loss needs features and target of one shape [B, N, T], got "
      f"{features.shape} and {target.shape}"
    )
  cosine = (unit(features) * unit(target)).sum(-1)
  rec = (1 - cosine).mean()
  return rec + quantizer_loss, {"rec": rec, "quant": quantizer_loss}


def _weights(mask: Array) -> Array:
  """1 / count where the mask is set."""
  weight = mask.astype(jnp.float32)
  return weight / jnp.maximum(weight.sum(), 1.0)
