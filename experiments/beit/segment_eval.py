"""Segmentations of whole images, and how good they are.

The test of mmsegmentation 0.11: an image is resized, cut into overlapping
windows, whose logits are averaged and brought back to the image's own size;
probabilities of several sizes and of their mirror images are averaged. Images
differ in size: what is compiled is the network for batches of 1, 2, 4, ...
windows, and small programs for canvases whose sides are multiples of half a
window.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.progress import track

from experiments.beit.segment_config import Segmentation
from experiments.beit.segment_model import Weights
from jaxgen import training
from jaxgen.data.segmentation import (
  check_pair,
  fitted_size,
  normalize,
  pad_to,
  reduce_zero_label,
  resize_image,
  two_taps,
)
from jaxgen.metrics.segmentation import confusion_matrix
from jaxgen.nn.segmentation import resize, window_starts
from jaxgen.types import Array, PyTree

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

# Image, its labels, the labels predicted.
Segmented = tuple[np.ndarray, np.ndarray, np.ndarray]


class Look(NamedTuple):
  """One way in which the network sees an image.

  Attributes:
    size: height and width that the image is brought to.
    mirrored: left and right are exchanged.
    weight: of its probabilities.
  """

  size: tuple[int, int]
  mirrored: bool
  weight: float


def looks_at(
  config: Segmentation, shape: tuple[int, ...], multi: bool
) -> list[Look]:
  """How an image is looked at in the test.

  Once, fitted into `long` x `short`; or, in the test of several scales, with a
  short side of 0.5, 0.75, ..., 1.75 times `short`, but no less than a window,
  each also mirrored. Ratios that come to the same size are one look that weighs
  as much as they.

  Args:
    config: of the network.
    shape: height and width of the image.
    multi: several scales and mirror images.
  """
  height, width = shape[:2]
  if not multi:
    size = fitted_size(height, width, config.long, config.short)
    return [Look(size, False, 1.0)]
  short = [max(int(config.short * r), config.crop_size) for r in RATIOS]
  unbounded = 2**31
  sizes = Counter(fitted_size(height, width, unbounded, s) for s in short)
  weight = 1 / (2 * len(RATIOS))
  return [
    Look(size, mirrored, count * weight)
    for size, count in sizes.items()
    for mirrored in (False, True)
  ]


class Programs(NamedTuple):
  """What is compiled.

  Attributes:
    predict: (variables, windows `[n, crop, crop, C]`) -> logits
      `[n, h, w, K]`.
    add: (canvas `[H, W, K]`, logits, tops `[n]`, lefts `[n]`, real `[n]`) ->
      the canvas with the enlarged logits of the real windows added.
    finish: (probabilities `[Ho, Wo, K]`, canvas, number of windows at each
      pixel `[H, W]`, two taps of each row, of each column, weight) ->
      probabilities with those of the canvas, resized, added.
  """

  predict: Callable[..., Array]
  add: Callable[..., Array]
  finish: Callable[..., Array]


def make_programs(config: Segmentation, network: Any, mesh: Mesh) -> Programs:
  """The programs, whose canvases are on every device of the mesh."""
  crop = config.crop_size
  whole = NamedSharding(mesh, PartitionSpec())

  @partial(jax.jit, out_shardings=whole)
  def predict(variables: PyTree, windows: Array) -> Array:
    return network.apply(variables, windows)[0]

  @partial(jax.jit, donate_argnums=0, out_shardings=whole)
  def add(canvas, logits, tops, lefts, real):
    def one(i, canvas):
      at = (tops[i], lefts[i], 0)
      window = resize(logits[i][None], crop, crop)[0] * real[i]
      before = jax.lax.dynamic_slice(canvas, at, window.shape)
      return jax.lax.dynamic_update_slice(canvas, before + window, at)

    return jax.lax.fori_loop(0, len(logits), one, canvas)

  @partial(jax.jit, donate_argnums=0, out_shardings=whole)
  def finish(probabilities, canvas, count, rows, columns, weight):
    mean = canvas / count[:, :, None]
    mean = _between(mean, rows, 0)
    mean = _between(mean, columns, 1)
    return probabilities + weight * jax.nn.softmax(mean)

  return Programs(predict, add, finish)


def _between(x: Array, taps: tuple[Array, Array, Array], axis: int) -> Array:
  """Of each of the taps the value between two of x along an axis."""
  low, high, weight = taps
  weight = jnp.expand_dims(weight, (1, 2) if axis == 0 else (0, 2))
  first, second = (jnp.take(x, i, axis) for i in (low, high))
  return first + (second - first) * weight


class ImageSegmenter:
  """Segments images of any size with one network."""

  def __init__(self, weights: Weights, window_batch: int = 8) -> None:
    """Places the network on all devices.

    Args:
      weights: configuration, network and variables.
      window_batch: most windows at a time, over all devices.
    """
    self._config = weights.config
    self._mesh = training.make_mesh()
    self._window_batch = max(window_batch, self._mesh.size)
    self._variables = training.shard_state(self._mesh, weights.variables)
    self._programs = make_programs(weights.config, weights.network, self._mesh)

  def __call__(self, image: np.ndarray, multi: bool = False) -> np.ndarray:
    """The most probable labels of an image.

    Args:
      image: uint8 `[H, W, C]`.
      multi: the test of several scales, see `looks_at`.

    Returns:
      int32 `[H, W]`.
    """
    height, width = image.shape[:2]
    shape = (self._padded(height), self._padded(width))
    total = jnp.zeros((*shape, self._config.num_classes))
    for look in looks_at(self._config, image.shape, multi):
      total = self._add(total, image, look)
    labels = np.asarray(total.argmax(-1).astype(jnp.int32))
    return labels[:height, :width]

  def _add(self, total: Array, image: np.ndarray, look: Look) -> Array:
    config, crop = self._config, self._config.crop_size
    x = normalize(resize_image(image, *look.size), config.mean, config.std)
    x = x[:, ::-1] if look.mirrored else x
    # Smaller than a window only if very long; the rest is not looked at.
    x = pad_to(x, crop, crop, 0.0)
    places = [
      (top, left)
      for top in window_starts(x.shape[0], crop, config.stride)
      for left in window_starts(x.shape[1], crop, config.stride)
    ]
    shape = (self._padded(x.shape[0]), self._padded(x.shape[1]))
    count = np.zeros(shape, np.float32)
    for top, left in places:
      count[top : top + crop, left : left + crop] += 1
    canvas = jnp.zeros((*shape, config.num_classes))
    while places:
      n = self._batch_size(len(places))
      canvas = self._programs.add(canvas, *self._windows(x, places[:n], n))
      places = places[n:]
    rows, columns = (
      _padded_taps(two_taps(n, size), padded)
      for n, size, padded in zip(
        look.size, image.shape[:2], total.shape[:2], strict=True
      )
    )
    if look.mirrored:
      columns = _mirrored(columns, image.shape[1])
    return self._programs.finish(
      total, canvas, np.maximum(count, 1), rows, columns, look.weight
    )

  def _batch_size(self, count: int) -> int:
    """Devices times a power of two: enough for so many windows, or the most."""
    size = self._mesh.size
    while size < count and 2 * size <= self._window_batch:
      size *= 2
    return size

  def _windows(
    self, x: np.ndarray, places: Sequence[tuple[int, int]], n: int
  ) -> tuple[Array, np.ndarray, np.ndarray, np.ndarray]:
    """Logits of n windows, where they are, and which are not filling."""
    crop = self._config.crop_size
    windows = np.zeros((n, crop, crop, x.shape[-1]), np.float32)
    tops, lefts = np.zeros((2, n), np.int32)
    for i, (top, left) in enumerate(places):
      windows[i] = x[top : top + crop, left : left + crop]
      tops[i], lefts[i] = top, left
    real = (np.arange(n) < len(places)).astype(np.float32)
    batch = training.shard_batch(self._mesh, {"x": windows})
    logits = self._programs.predict(self._variables, batch["x"])
    return logits, tops, lefts, real

  def _padded(self, n: int) -> int:
    step = max(1, self._config.crop_size // 2)
    return -(-n // step) * step


Taps = tuple[np.ndarray, np.ndarray, np.ndarray]


def _padded_taps(taps: Taps, size: int) -> Taps:
  """Taps for more positions; what those find does not matter."""
  low, high, weight = (np.pad(x, (0, size - len(x))) for x in taps)
  return low, high, weight


def _mirrored(taps: Taps, size: int) -> Taps:
  """Position i finds what position size - 1 - i did."""
  low, high, weight = (x.copy() for x in taps)
  for x in (low, high, weight):
    x[:size] = x[:size][::-1]
  return low, high, weight


def segment_all(
  weights: Weights,
  images: Sequence[dict[str, Any]],
  multi: bool = False,
  window_batch: int = 8,
) -> Iterator[Segmented]:
  """Images, their labels, and what is predicted, one after another.

  Args:
    weights: configuration, network and variables.
    images: examples with `image` and `segmentation`.
    multi: the test of several scales.
    window_batch: most windows at a time.
  """
  segment = ImageSegmenter(weights, window_batch)
  for i in track(range(len(images)), "segmenting", transient=True):
    image, labels = check_pair(images[i])
    if weights.config.reduce_zero_label:
      labels = reduce_zero_label(labels)
    yield image, labels, segment(image, multi)


def judge(
  found: Iterator[Segmented], num_classes: int, shown: int = 8
) -> tuple[np.ndarray, list[Segmented]]:
  """The confusion matrix of segmentations, and the first of them."""
  matrix = np.zeros((num_classes, num_classes), np.int64)
  first: list[Segmented] = []
  for image, labels, predicted in found:
    matrix += confusion_matrix(labels, predicted, num_classes)
    if len(first) < shown:
      first.append((image, labels, predicted))
  return matrix, first
