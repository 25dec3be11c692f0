"""The share of held-out images that are classified right."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import results
from jaxgen import training
from jaxgen.types import Array, PyTree

# (parameters, batch) -> logits `[..., B, K]`.
Classify = Callable[[PyTree, dict[str, Array]], Array]
_Z = 1.959964  # of 95%


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """How well n images are classified.

  Attributes:
    top1: share whose label is the first choice.
    top5: share whose label is among the first five, or among all if fewer.
    loss: mean cross-entropy, in nats.
    n: images.
  """

  top1: float
  top5: float
  loss: float
  n: int

  def interval(self) -> tuple[float, float]:
    """Wilson's (1927) 95% interval of top1."""
    return wilson(self.top1, self.n)

  def __str__(self) -> str:
    low, high = self.interval()
    return (
      f"top-1 {self.top1:.2%} ({low:.2%} to {high:.2%}), top-5 "
      f"{self.top5:.2%} of {self.n} images"
    )


def wilson(share: float, n: int) -> tuple[float, float]:
  """The 95% interval of a probability of which n draws show a share.

  (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) with z =
  1.96 (Wilson 1927); unlike the normal interval it holds near 0 and 1.
  """
  centre = share + _Z**2 / (2 * n)
  width = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
  low, high = ((centre + sign * width) / (1 + _Z**2 / n) for sign in (-1, 1))
  return max(0.0, low), min(1.0, high)


def measure(
  classify: Classify,
  params: PyTree,
  batches: Iterable[Mapping[str, np.ndarray]],
  keep: Sequence[str] = ("image", "label", "mask"),
) -> list[Accuracy]:
  """Classifies batches over all devices; one accuracy for each classifier.

  Args:
    classify: (parameters, batch) -> logits `[B, K]`, or `[L, B, K]` of L
      classifiers.
    params: its parameters.
    batches: as of `jaxgen.data.eval_batches`, with labels and mask.
    keep: what of a batch is needed.
  """
  mesh = training.make_mesh()
  params = training.shard_state(mesh, params)

  @jax.jit
  def count(params: PyTree, batch: dict[str, Array]) -> Array:
    logits = classify(params, batch)
    logits = logits.reshape(-1, *logits.shape[-2:])
    real = batch["mask"].astype(jnp.float32)
    labels = jnp.broadcast_to(batch["label"][None], logits.shape[:2])
    best = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
    right = best == labels[..., None]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    found = (right[..., 0], right.any(-1), entropy, jnp.ones_like(entropy))
    return jnp.stack([(x * real[None]).sum(-1) for x in found], axis=-1)

  total = np.zeros(())
  for batch in batches:
    placed = training.shard_batch(mesh, {name: batch[name] for name in keep})
    total = total + np.asarray(count(params, placed), np.float64)
  return [
    Accuracy(top1 / n, top5 / n, loss / n, int(n))
    for top1, top5, loss, n in np.atleast_2d(total).tolist()
  ]


def save(
  path: Path,
  config: Any,
  seconds: float,
  found: Accuracy,
  **more: Any,
) -> None:
  """Writes an accuracy, what was trained and on what, as JSON."""
  low, high = found.interval()
  content = {
    **dataclasses.asdict(found),
    "interval": [low, high],
    **more,
    "config": dataclasses.asdict(config),
    "seconds": seconds,
    "device": results.device(),
    "commit": results.commit(),
  }
  path.write_text(json.dumps(content, indent=2) + "\n")
