"""Images with a label for every pixel: how mmsegmentation prepares them.

BEiT was trained for semantic segmentation (Bao et al. 2022, section 3.2) with
the pipeline of mmsegmentation 0.11: random size, crop, mirror, colours. An
image is uint8 `[H, W, C]` with C = 1 or 3, its labels are uint8 `[H, W]`, and
the label 255 is that of pixels which do not count.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxgen.data.images import check_image

UNLABELLED = 255
TRIES = 10  # crops drawn before one that holds too much of a class is taken
Floats = tuple[float, ...]


def reduce_zero_label(labels: np.ndarray) -> np.ndarray:
  """Labels 0, 1, 2, ... become 255, 0, 1, ...; 255 stays.

  ADE20K's 0 is whatever belongs to none of its 150 classes.
  """
  # In 8 bits 0 - 1 is 255 by itself; 255 - 1 is not.
  reduced = labels.astype(np.uint8) - np.uint8(1)
  return np.where(labels == UNLABELLED, np.uint8(UNLABELLED), reduced)


def fitted_size(
  height: int, width: int, long: int, short: int
) -> tuple[int, int]:
  """The largest size of the same shape within long x short, either way round.

  With factor = min(long / longer side, short / shorter side) it is
  floor(factor side + 1/2).
  """
  sides = (height, width)
  factor = min(long / max(sides), short / min(sides))
  new_height, new_width = (int(side * factor + 0.5) for side in sides)
  return max(1, new_height), max(1, new_width)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Bilinear between two pixels an axis, corners not aligned, as OpenCV's.

  Nothing is averaged when the image shrinks.
  """
  check_image(image)
  if image.shape[:2] == (height, width):
    return image
  x = image.astype(np.float32)
  for axis, size in enumerate((height, width)):
    low, high, weight = two_taps(image.shape[axis], size)
    weight = weight[:, None, None] if axis == 0 else weight[None, :, None]
    first, second = x.take(low, axis), x.take(high, axis)
    x = first + (second - first) * weight
  return np.floor(x + 0.5).astype(np.uint8)


def two_taps(n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """How `size` positions lie between n: position i at (i + 1/2) n / size - 1/2.

  Returns:
    (index below, index above, weight of the latter), `[size]` each; positions
    beyond the ends are those of the ends.
  """
  at = (np.arange(size) + 0.5) * (n / size) - 0.5
  at = at.clip(0, n - 1)
  low = np.floor(at).astype(np.int32)
  return low, np.minimum(low + 1, n - 1), (at - low).astype(np.float32)


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
  """Of each pixel the label at floor(i n / size), as OpenCV's nearest."""
  rows, columns = (
    np.minimum((np.arange(size) * (n / size)).astype(int), n - 1)
    for n, size in zip(labels.shape, (height, width), strict=True)
  )
  return labels[rows[:, None], columns[None]]


def crop_box(
  labels: np.ndarray,
  crop: int,
  max_share: float,
  rng: np.random.Generator,
) -> tuple[slice, slice]:
  """Rows and columns of a random crop that shows more than one class.

  Up to 10 crops are drawn until in one no class has `max_share` of the labelled
  pixels or more; then one more, which is taken as it is.
  """
  box = _random_box(labels.shape, crop, rng)
  for _ in range(TRIES if max_share < 1 else 0):
    counts = np.bincount(labels[box].ravel(), minlength=256)[:UNLABELLED]
    if (counts > 0).sum() > 1 and counts.max() / counts.sum() < max_share:
      break
    box = _random_box(labels.shape, crop, rng)
  return box


def _random_box(
  shape: tuple[int, ...], crop: int, rng: np.random.Generator
) -> tuple[slice, slice]:
  starts = [int(rng.integers(0, max(n - crop, 0) + 1)) for n in shape]
  top, left = starts
  return slice(top, top + crop), slice(left, left + crop)


def rgb_to_hsv(image: np.ndarray) -> np.ndarray:
  """Hue, saturation and value in 8 bits, as OpenCV counts them.

  The value is the largest colour v; the saturation 255 d / v, where d is v less
  the smallest; the hue, in steps of 2 degrees from 0 to 179, is 30 (g - b) / d
  where red is largest, 60 + 30 (b - r) / d where green, 120 + 30 (r - g) / d
  where blue is.

  Args:
    image: uint8 `[..., 3]`.
  """
  r, g, b = np.moveaxis(image.astype(np.float32), -1, 0)
  v = np.maximum(np.maximum(r, g), b)
  d = v - np.minimum(np.minimum(r, g), b)
  s = 255 * d / np.maximum(v, 1)
  hue = np.where(v == g, 60 * d + 30 * (b - r), 120 * d + 30 * (r - g))
  hue = np.where(v == r, 30 * (g - b), hue) / np.maximum(d, 1)
  hue = np.floor(hue + 0.5) % 180
  return np.stack([hue, np.floor(s + 0.5), v], -1).astype(np.uint8)


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
  """The colours of `rgb_to_hsv`, up to rounding."""
  hue, s, v = np.moveaxis(hsv.astype(np.float32), -1, 0)
  s = s / 255
  # Colour n is v (1 - s k) with k rising and falling in sixths of the circle.
  colours = []
  for n in (5, 3, 1):
    k = (n + hue / 30) % 6
    colours.append(v * (1 - s * np.minimum(k, 4 - k).clip(0, 1)))
  return np.rint(np.stack(colours, -1)).astype(np.uint8)


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """mmsegmentation's photometric distortion: each change with probability 1/2.

  In this order: up to 32 levels brighter or darker; contrast, all levels times
  0.5 to 1.5, here or at the end with probability 1/2; saturation times 0.5 to
  1.5; hue turned by -36 to 34 degrees. Levels are cut to whole ones in [0, 255]
  after each. Grey images have neither saturation nor hue.

  Args:
    image: uint8 `[H, W, C]`.
    rng: draws the changes.
  """
  happens = lambda: rng.random() < 0.5

  def contrast(image):
    return _levels(image, rng.uniform(0.5, 1.5)) if happens() else image

  if happens():
    image = _levels(image, 1.0, rng.uniform(-32, 32))
  early = happens()
  if early:
    image = contrast(image)
  coloured = image.shape[-1] == 3
  if coloured and happens():
    hsv = rgb_to_hsv(image)
    hsv[..., 1] = _levels(hsv[..., 1], rng.uniform(0.5, 1.5))
    image = hsv_to_rgb(hsv)
  if coloured and happens():
    hsv = rgb_to_hsv(image)
    hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-18, 18)) % 180
    image = hsv_to_rgb(hsv)
  return image if early else contrast(image)


def _levels(x: np.ndarray, factor: float, shift: float = 0.0) -> np.ndarray:
  changed = x.astype(np.float32) * np.float32(factor) + np.float32(shift)
  return changed.clip(0, 255).astype(np.uint8)


def normalize(image: np.ndarray, mean: Floats, std: Floats) -> np.ndarray:
  """(x - mean) / std of each channel, float32; mean and std are in levels.

  A grey image gets as many channels as there are numbers.
  """
  shape = (1,) * (image.ndim - 1) + (-1,)
  as_row = lambda values: np.asarray(values, np.float32).reshape(shape)
  return (image.astype(np.float32) - as_row(mean)) / as_row(std)


def pad_to(x: np.ndarray, height: int, width: int, value: float) -> np.ndarray:
  """x `[h, w, ...]` filled up at the bottom and on the right."""
  missing = [(0, max(0, height - x.shape[0])), (0, max(0, width - x.shape[1]))]
  rest = [(0, 0)] * (x.ndim - 2)
  return np.pad(x, missing + rest, constant_values=value)


@dataclasses.dataclass(frozen=True)
class SegmentationCrops:
  """Random crops for training, a `transform` of `train_batches`.

  Attributes:
    crop: height and width of a crop.
    long, short: the image is brought to the largest size within these, times
      a random ratio.
    mean, std: of each channel, in levels.
    ratios: between which the ratio is drawn evenly.
    max_share: see `crop_box`; 1 takes the first crop.
    flip: mirror with probability 1/2.
    distort: see the function `distort`.
    reduce_zero_label: see the function of that name.
  """

  crop: int
  long: int
  short: int
  mean: Floats
  std: Floats
  ratios: tuple[float, float] = (0.5, 2.0)
  max_share: float = 0.75
  flip: bool = True
  distort: bool = True
  reduce_zero_label: bool = False

  def __call__(
    self, example: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    """A crop of `example["image"]` and of `example["segmentation"]`.

    Returns:
      `image`, float32 `[crop, crop, C]`, normalised, 0 where the image ends;
      `segmentation`, uint8 `[crop, crop]`, 255 there.

    Raises:
      ValueError: the labels' shape is not the image's.
    """
    image, labels = check_pair(example)
    if self.reduce_zero_label:
      labels = reduce_zero_label(labels)
    ratio = rng.uniform(*self.ratios)
    height, width = labels.shape
    size = fitted_size(
      height, width, int(self.long * ratio), int(self.short * ratio)
    )
    image, labels = resize_image(image, *size), resize_labels(labels, *size)
    box = crop_box(labels, self.crop, self.max_share, rng)
    image, labels = image[box], labels[box]
    if self.flip and rng.random() < 0.5:
      image, labels = image[:, ::-1], labels[:, ::-1]
    if self.distort:
      image = distort(image, rng)
    crop = (self.crop, self.crop)
    return {
      "image": pad_to(normalize(image, self.mean, self.std), *crop, 0.0),
      "segmentation": pad_to(labels, *crop, UNLABELLED),
    }


def check_pair(example: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
  """Image and labels `[H, W]` of an example.

  Raises:
    ValueError: there are no labels, or they do not fit.
  """
  if "segmentation" not in example:
    raise ValueError(f"an example needs a segmentation, got {list(example)}")
  image, labels = check_image(example["image"]), example["segmentation"]
  if labels.ndim == 3 and labels.shape[-1] == 1:
    labels = labels[..., 0]
  if labels.shape != image.shape[:2]:
    raise ValueError(
      f"a segmentation has its image's height and width {image.shape[:2]}, got "
      f"{labels.shape}"
    )
  return image, labels
