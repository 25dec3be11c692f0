"""What networks of masked images are trained for."""

import jax.numpy as jnp
import optax

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


def image_patches(images: Array, patch_size: int) -> Array:
  """The pixels of each patch: `[B, H, W, C]` -> `[B, N, P P C]`.

  Patches are in the order of `jaxgen.nn.vit`'s tokens, row after row, and so
  are the pixels of a patch, its channels last.

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


def _weights(mask: Array) -> Array:
  """1 / count where the mask is set."""
  weight = mask.astype(jnp.float32)
  return weight / jnp.maximum(weight.sum(), 1.0)
