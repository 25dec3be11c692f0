"""What metrics need to know of a set of images, gathered in one pass."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from jaxgen import training
from jaxgen.metrics.features import Extractor, Features
from jaxgen.metrics.inception_score import (
  SPLITS,
  ClassSums,
  add_logits,
  no_classes,
)
from jaxgen.metrics.moments import Gaussian, Moments, merge, moments_of

KEPT = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
  """Statistics of one set of images under one network.

  Attributes:
    source: where the images are from.
    digest: of the images, or of the file that held their statistics.
    n: how many; None where a file does not say.
    network: name, weights and resize rule; None where a file does not say.
    pool: of the pool features: FID.
    spatial: of the spatial features: sFID.
    classes: of the class probabilities: IS.
    kept: pool features of the first images `[m, D]`: KID, precision, recall.
  """

  source: str
  digest: str
  n: int | None
  network: tuple[str, str, str] | None
  pool: Gaussian
  spatial: Gaussian | None = None
  classes: ClassSums | None = None
  kept: np.ndarray | None = None

  @property
  def name(self) -> str:
    """Source, number and digest, which tell these images from others."""
    count = "? images" if self.n is None else f"{self.n} images"
    return f"{self.source}, {count}, {self.digest}"


def collect(
  extractor: Extractor,
  batches: Iterable[np.ndarray],
  total: int,
  source: str,
  keep: int = KEPT,
) -> Statistics:
  """Statistics of uint8 images, each batch divided over all devices.

  Features of all images are never held at once, apart from the `keep` first.
  The 8-bit levels are used as they are, without noise (no dequantisation), and
  no image is left out.

  Args:
    extractor: of the features.
    batches: uint8 `[B, H, W, C]`; only the last may be smaller.
    total: images in all, at least 10.
    source: where they are from, for the protocol.
    keep: pool features to keep.

  Raises:
    ValueError: fewer or more images than `total`, or fewer than 10.
  """
  if total < SPLITS:
    raise ValueError(f"statistics need at least {SPLITS} images, got {total}")
  digest = hashlib.sha256()
  pool: list[Moments] = []
  spatial: list[Moments] = []
  kept: list[np.ndarray] = []
  classes: ClassSums | None = None
  count = 0
  for images, features in _features(extractor, batches):
    for image in images:
      digest.update(str(image.shape).encode() + image.tobytes())
    if count + len(images) > total:
      raise ValueError(f"{source} has more images than the {total} announced")
    pool = [merge([*pool, moments_of(features.pool)])]
    spatial = [merge([*spatial, moments_of(features.spatial)])]
    classes = classes or no_classes(features.logits.shape[1])
    classes = add_logits(classes, features.logits, count, total)
    kept.append(np.asarray(features.pool[: max(keep - count, 0)]))
    count += len(images)
  if count < total:
    raise ValueError(f"{source} has {count} images, fewer than {total}")
  return Statistics(
    source,
    digest.hexdigest()[:16],
    count,
    (extractor.name, extractor.weights_hash, extractor.resize),
    pool[0].gaussian,
    spatial[0].gaussian,
    classes,
    np.concatenate(kept),
  )


def batches_of(
  images: Sequence[np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
  """Images `[H, W, C]` stacked by `batch_size`; the last batch may be smaller.

  Raises:
    ValueError: images of one batch differ in shape.
  """
  for start in range(0, len(images), batch_size):
    stop = min(start + batch_size, len(images))
    some = [images[i] for i in range(start, stop)]
    if len({image.shape for image in some}) > 1:
      shapes = sorted({image.shape for image in some})
      raise ValueError(f"images have one shape, got {shapes}")
    yield np.stack(some)


def _features(
  extractor: Extractor, batches: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, Features]]:
  """Batches and their features; small batches are filled up to the first's."""
  mesh = training.make_mesh()
  apply = training.shard_state(mesh, extractor.apply)
  size = 0
  for images in batches:
    size = size or -(-len(images) // mesh.size) * mesh.size
    rows = np.minimum(np.arange(max(size, len(images))), len(images) - 1)
    batch = training.shard_batch(mesh, {"image": images[rows]})["image"]
    features = jax.device_get(apply(batch))
    yield images, Features(*(x[: len(images)] for x in features))
