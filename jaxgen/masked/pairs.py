"""Losses and scores of networks that are given an image with a text."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.types import Array


def contrastive_loss(
  images: Array, texts: Array, scale: Array | float
) -> tuple[Array, dict[str, Array]]:
  """Tells every image's text from the batch's others, and back.

  Half of the cross-entropy of softmax_j(scale u_i . v_j) and half that of
  softmax_i, of the pairs i = j (Radford et al. 2021, Fig. 3). The batch is the
  whole one: sharded over devices under `jax.jit`, the vectors of all are
  compared, and gradients flow to all.

  Args:
    images: unit vectors u `[B, C]`.
    texts: those of their texts, v `[B, C]`.
    scale: of the products.

  Returns:
    The loss, and the shares of images and of texts whose own partner is the
    nearest, "image_accuracy" and "text_accuracy".

  Raises:
    ValueError: the shapes do not agree.
  """
  if images.shape != texts.shape or images.ndim != 2:
    raise ValueError(
      f"contrastive_loss needs images and texts [B, C], got {images.shape} and "
      f"{texts.shape}."
    )
  images, texts = images.astype(jnp.float32), texts.astype(jnp.float32)
  logits = scale * images @ texts.T
  own = jnp.arange(len(images))
  metrics = {}
  losses = []
  for name, rows in (("image", logits), ("text", logits.T)):
    entropy = optax.softmax_cross_entropy_with_integer_labels(rows, own)
    losses.append(entropy.mean())
    metrics[f"{name}_accuracy"] = (rows.argmax(1) == own).mean()
  return (losses[0] + losses[1]) / 2, metrics


def answer_loss(logits: Array, targets: Array) -> Array:
  """Binary cross-entropy, summed over answers, by mean over questions.

  -sum_k t_k log s(l_k) + (1 - t_k) log(1 - s(l_k)), s the logistic function
  (VQAv2 in BEiT-3's released code: the mean over all, times the answers).

  Args:
    logits: l `[B, K]`.
    targets: t `[B, K]`, in [0, 1]; see `answer_targets`.

  Raises:
    ValueError: the shapes do not agree.
  """
  if logits.shape != targets.shape:
    raise ValueError(
      f"answer_loss needs logits and targets of one shape, got {logits.shape} "
      f"and {targets.shape}."
    )
  logits = logits.astype(jnp.float32)
  return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1).mean()


def answer_targets(counts: np.ndarray) -> np.ndarray:
  """How right an answer is that so many of ten people gave.

  0, 0.3, 0.6, 0.9 and, from four on, 1: VQA's accuracy min(1, n / 3), n of nine
  people, by mean over who of the ten is left out (Antol et al. 2015).

  Args:
    counts: integers, of any shape.
  """
  scores = np.array([0.0, 0.3, 0.6, 0.9, 1.0], np.float32)
  return scores[np.minimum(np.asarray(counts), 4)]


def retrieval_recalls(
  images: Array,
  texts: Array,
  partners: Array,
  ranks: tuple[int, ...] = (1, 5, 10),
) -> dict[str, Array]:
  """R@k of searching texts by image and images by text.

  An image is found a text if one of its own is among the k nearest; a text its
  image likewise (Karpathy & Fei-Fei 2015, section 4.2).

  Args:
    images: unit vectors `[M, C]`.
    texts: unit vectors `[N, C]`.
    partners: each text's image, integers `[N]`.
    ranks: the k.

  Returns:
    Shares in [0, 1]: "text_recall_k", of images, and "image_recall_k", of
    texts.

  Raises:
    ValueError: there are fewer images or texts than the largest k.
  """
  if min(len(images), len(texts)) < max(ranks):
    raise ValueError(
      f"retrieval_recalls needs {max(ranks)} images and texts at least, got "
      f"{len(images)} and {len(texts)}."
    )
  products = images @ texts.T
  recalls = {}
  for k in ranks:
    _, nearest = jax.lax.top_k(products, k)
    own = partners[nearest] == jnp.arange(len(images))[:, None]
    recalls[f"text_recall_{k}"] = own.any(1).mean()
    _, nearest = jax.lax.top_k(products.T, k)
    recalls[f"image_recall_{k}"] = (nearest == partners[:, None]).any(1).mean()
  return recalls
