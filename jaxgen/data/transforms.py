"""Random crops, flips and colours of one image, as torchvision has them.

An image is uint8 [H, W, C] with C = 1 or 3, of any size: small ones are
enlarged. Random choices are those of a `np.random.Generator`. Resizing and
colours are PIL's, on which torchvision's transforms of PIL images run.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxgen.data.images import check_image, from_pil, to_pil
from jaxgen.data.optional import optional

Filter = Literal["bilinear", "bicubic", "lanczos"]
_TRIES = 10  # to draw a box that fits


class Box(NamedTuple):
  """A rectangle of pixels."""

  top: int
  left: int
  height: int
  width: int


def random_box(
  rng: np.random.Generator,
  height: int,
  width: int,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
  """The box of a random resized crop (Szegedy et al. 2015, section 6).

  Its share of the image's area is uniform in `scale`, its width over its height
  log-uniform in `ratio`, its place uniform. If ten draws do not fit into the
  image, the box is the largest in its centre whose shape lies in `ratio`.

  Raises:
    ValueError: scale or ratio is no range of positive numbers.
  """
  for name, (low, high) in (("scale", scale), ("ratio", ratio)):
    if not 0 < low <= high:
      raise ValueError(f"{name} must be 0 < low <= high, got {(low, high)}")
  for _ in range(_TRIES):
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      top = int(rng.integers(0, height - h, endpoint=True))
      left = int(rng.integers(0, width - w, endpoint=True))
      return Box(top, left, h, w)
  w = min(width, round(height * ratio[1]))
  h = min(height, round(width / ratio[0]))
  return Box((height - h) // 2, (width - w) // 2, h, w)


def render(
  image: np.ndarray, box: Box, size: int, filter: Filter = "bicubic"
) -> np.ndarray:
  """The pixels of the box at `[size, size, C]`; none outside it are looked at.

  Raises:
    ValueError: the box does not lie within the image, size < 1, or the filter
      is not bilinear, bicubic or lanczos.
  """
  height, width, _ = check_image(image).shape
  top, left, h, w = box
  if min(h, w) < 1 or not (0 <= top <= height - h and 0 <= left <= width - w):
    raise ValueError(f"{box} does not lie in an image of {height} x {width}")
  if size < 1:
    raise ValueError(f"size must be at least 1, got {size}")
  pil = to_pil(image[top : top + h, left : left + w])
  return from_pil(pil.resize((size, size), resampling(filter)))


def random_flip(
  rng: np.random.Generator, image: np.ndarray, p: float = 0.5
) -> np.ndarray:
  """The image, mirrored left-right with probability p."""
  return image[:, ::-1] if rng.random() < p else image


def color_jitter(
  rng: np.random.Generator,
  image: np.ndarray,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
) -> np.ndarray:
  """Colours changed by random factors, in a random order.

  With f uniform in [max(0, 1 - a), 1 + a] and a the argument: brightness is
  f x; contrast f x + (1 - f) m, with m the mean gray level of the image;
  saturation f x + (1 - f) g, with g the pixel's gray level. Hue is turned by up
  to `hue` of a whole turn. What is 0 is left out, and so are saturation and hue
  of a gray image.

  Raises:
    ValueError: an argument is negative, or hue above 0.5.
  """
  amounts = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
  }
  if min(amounts.values()) < 0 or hue > 0.5:
    raise ValueError(f"jitter must be >= 0, and hue <= 0.5, got {amounts}")
  pil = to_pil(image)
  for name in rng.permutation(list(amounts)).tolist():
    amount = amounts[name]
    if not amount or (pil.mode == "L" and name in ("saturation", "hue")):
      continue
    if name == "hue":
      pil = _turned(pil, rng.uniform(-amount, amount))
    else:
      factor = rng.uniform(max(0.0, 1 - amount), 1 + amount)
      pil = _ENHANCERS[name](pil).enhance(factor)
  return from_pil(pil)


def eval_crop(
  image: np.ndarray, size: int, crop_pct: float = 0.875
) -> np.ndarray:
  """The central `size` x `size` of the image at size / crop_pct.

  The short side is brought to int(size / crop_pct) with a bicubic filter. The
  usual 0.875 is 224 of 256; at 384 and above BEiT takes 1.

  Raises:
    ValueError: crop_pct is not in (0, 1].
  """
  if not 0 < crop_pct <= 1:
    raise ValueError(f"crop_pct must lie in (0, 1], got {crop_pct}")
  height, width, _ = check_image(image).shape
  short, to = min(height, width), int(size / crop_pct)
  pil = to_pil(image)
  if short != to:
    shape = (int(to * width / short), int(to * height / short))
    pil = pil.resize(shape, resampling("bicubic"))
  top, left = round((pil.height - size) / 2), round((pil.width - size) / 2)
  return from_pil(pil)[top : top + size, left : left + size]


def resampling(filter: Filter) -> Any:
  """PIL's filter of that name."""
  filters = optional("PIL.Image").Resampling
  if filter not in ("bilinear", "bicubic", "lanczos"):
    raise ValueError(
      f"a filter is bilinear, bicubic or lanczos, got {filter!r}"
    )
  return filters[filter.upper()]


def _enhancer(name: str) -> Callable[[Any], Any]:
  return lambda pil: getattr(optional("PIL.ImageEnhance"), name)(pil)


_ENHANCERS = {
  "brightness": _enhancer("Brightness"),
  "contrast": _enhancer("Contrast"),
  "saturation": _enhancer("Color"),
}


def _turned(pil: Any, turn: float) -> Any:
  """The hue turned by a part of a whole turn, in steps of 1 / 255."""
  hue, saturation, value = pil.convert("HSV").split()
  steps = int(turn * 255)
  hue = hue.point([(level + steps) % 256 for level in range(256)])
  merged = optional("PIL.Image").merge("HSV", (hue, saturation, value))
  return merged.convert("RGB")
