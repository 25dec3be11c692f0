"""Mixed images and their soft targets, for the step that trains a classifier.

Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Yun et al. 2019,
"CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
Features"; one draw for a whole batch, each image's partner in the reversed
batch, as timm's batch mode has it.
"""

import jax
import jax.numpy as jnp
import optax

from jaxgen.types import Array, Key


def mix(
  key: Key,
  images: Array,
  labels: Array,
  num_classes: int,
  *,
  mixup_alpha: float = 0.8,
  cutmix_alpha: float = 1.0,
  prob: float = 1.0,
  switch_prob: float = 0.5,
  smoothing: float = 0.1,
) -> tuple[Array, Array]:
  """Mixup or CutMix of a batch, with targets to match.

  Mixup is lam x + (1 - lam) x', lam ~ Beta(mixup_alpha, mixup_alpha), with x'
  the batch in reverse. CutMix puts a rectangle of x' into x, with lam ~
  Beta(cutmix_alpha, cutmix_alpha) the share that it leaves; where the border
  cuts the rectangle, lam becomes the share that is left. Targets are
  lam y + (1 - lam) y', of smoothed labels.

  Args:
    key: of the draws.
    images: `[B, H, W, C]`.
    labels: `[B]`, or targets `[B, num_classes]`.
    num_classes: K.
    mixup_alpha: 0 leaves mixup out.
    cutmix_alpha: 0 leaves CutMix out.
    prob: probability that the batch is mixed at all.
    switch_prob: probability of CutMix, where both are in.
    smoothing: of the labels; see `smooth_labels`.

  Returns:
    The images, and targets `[B, K]`, float32.

  Raises:
    ValueError: an alpha is negative, or a probability not in [0, 1].
  """
  _check(mixup_alpha, cutmix_alpha, prob, switch_prob)
  targets = smooth_labels(labels, num_classes, smoothing)
  if not (mixup_alpha or cutmix_alpha):
    return images, targets
  height, width = images.shape[1:3]
  keys = jax.random.split(key, 5)
  if not mixup_alpha:
    switch_prob = 1.0
  elif not cutmix_alpha:
    switch_prob = 0.0
  mixed = jax.random.bernoulli(keys[0], prob)
  cut = jax.random.bernoulli(keys[1], switch_prob)
  alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
  lam = jax.random.beta(keys[2], alpha, alpha)
  lam = jnp.where(mixed, lam, 1.0)
  y = jax.random.randint(keys[3], (), 0, height)
  x = jax.random.randint(keys[4], (), 0, width)
  box = cutmix_box(lam, y, x, height, width)
  lam = jnp.where(cut, 1 - box.mean(), lam)
  other = images[::-1]
  share = lam.astype(images.dtype)
  images = jnp.where(
    cut,
    jnp.where(box[None, :, :, None], other, images),
    share * images + (1 - share) * other,
  )
  return images, lam * targets + (1 - lam) * targets[::-1]


def cutmix_box(
  lam: Array | float, y: Array | int, x: Array | int, height: int, width: int
) -> Array:
  """Where CutMix takes the partner's pixels: bool `[height, width]`.

  A rectangle of the image's shape and (1 - lam) of its area around pixel
  (y, x), sides rounded down, without what lies outside (Yun et al. 2019,
  Eq. 2).
  """

  def between(center, size):
    side = (size * jnp.sqrt(1 - lam)).astype(jnp.int32)
    at = jnp.arange(size)
    return (at >= center - side // 2) & (at < center + (side + 1) // 2)

  return between(y, height)[:, None] & between(x, width)[None]


def smooth_labels(
  labels: Array, num_classes: int, smoothing: float = 0.1
) -> Array:
  """(1 - s) y + s / K: one-hot targets `[B, K]` moved to the uniform (float32).

  Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
  Vision", section 7.

  Args:
    labels: `[B]`, or targets `[B, K]`.
    num_classes: K.
    smoothing: s in [0, 1).

  Raises:
    ValueError: smoothing is out of range, or targets are not of K classes.
  """
  if not 0 <= smoothing < 1:
    raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
  if labels.ndim == 1:
    labels = jax.nn.one_hot(labels, num_classes)
  if labels.shape[1:] != (num_classes,):
    raise ValueError(
      f"labels are [B] or [B, {num_classes}], got {labels.shape}"
    )
  return (1 - smoothing) * labels.astype(jnp.float32) + smoothing / num_classes


def soft_target_cross_entropy(logits: Array, targets: Array) -> Array:
  """-sum_k t_k log softmax(logits)_k in nats, float32: `[B]` of `[B, K]`."""
  return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def _check(
  mixup_alpha: float, cutmix_alpha: float, prob: float, switch_prob: float
) -> None:
  if min(mixup_alpha, cutmix_alpha) < 0:
    raise ValueError(
      "mixup_alpha and cutmix_alpha must be >= 0, got "
      f"{mixup_alpha} and {cutmix_alpha}"
    )
  if not (0 <= prob <= 1 and 0 <= switch_prob <= 1):
    raise ValueError(
      f"prob and switch_prob must lie in [0, 1], got {prob} and {switch_prob}"
    )
