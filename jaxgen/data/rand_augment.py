"""RandAugment and random erasing as timm has them, with which BEiT fine-tunes.

Cubuk et al. 2019, "RandAugment: Practical automated data augmentation with a
reduced search space"; Zhong et al. 2017, "Random Erasing Data Augmentation".
The ranges are those of timm's `rand-m9-mstd0.5-inc1`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data.images import from_pil, to_pil
from jaxgen.data.optional import optional
from jaxgen.data.transforms import Filter, resampling

FILL = (128, 128, 128)
_TRIES = 10  # to place the erased rectangle


class Strength(NamedTuple):
  """How much an operation changes an image, and what it fills gaps with.

  Attributes:
    level: in [0, 10].
    sign: 1 or -1, the direction of what has one.
    increasing: operations get stronger with the level. Without it, levels of
      posterize, solarize and the four enhancements run from one extreme to
      the other: more bits, a higher threshold, a larger factor.
    fill: the colour of what an image is moved away from.
    filter: interpolates where an image is moved.
  """

  level: float
  sign: int = 1
  increasing: bool = True
  fill: tuple[int, int, int] = FILL
  filter: Filter = "bicubic"


def rand_augment(
  rng: np.random.Generator,
  image: np.ndarray,
  m: float = 9.0,
  n: int = 2,
  mstd: float = 0.5,
  increasing: bool = True,
  *,
  p: float = 0.5,
  ops: Sequence[str] | None = None,
  fill: tuple[int, int, int] = FILL,
  filter: Filter = "bicubic",
) -> np.ndarray:
  """n operations drawn with replacement, each done with probability p.

  Args:
    rng: where the draws come from.
    image: uint8 [H, W, C].
    m: mean of an operation's level; levels are clipped to [0, 10].
    n: operations drawn.
    mstd: their standard deviation.
    increasing: see `Strength`.
    p: probability that an operation drawn is done.
    ops: names in `OPERATIONS`; by default `TIMM_OPS`. A gray image leaves out
      "color". BEiT-3's is `m=7, mstd=0, increasing=False, ops=BEIT3_OPS,
      filter="bilinear"`.
    fill: the colour of what an image is moved away from; of a gray image, the
      mean of it.
    filter: interpolates where an image is moved.

  Raises:
    ValueError: m or mstd is out of range, or there is no such operation.
  """
  if not 0 <= m <= 10 or mstd < 0:
    raise ValueError(
      f"rand_augment needs m in [0, 10] and mstd >= 0, got {m} and {mstd}"
    )
  names = TIMM_OPS if ops is None else tuple(ops)
  unknown = set(names) - set(OPERATIONS)
  if unknown or not names:
    raise ValueError(
      f"no operation is called {sorted(unknown)}: there are "
      f"{', '.join(OPERATIONS)}"
    )
  if image.shape[-1] == 1:
    names = tuple(name for name in names if name != "color")
  for _ in range(n):
    name = names[rng.integers(len(names))]
    if rng.random() >= p:
      continue
    level = min(10.0, max(0.0, rng.normal(m, mstd)))
    sign = 1 if rng.random() < 0.5 else -1
    strength = Strength(level, sign, increasing, fill, filter)
    image = apply_operation(name, image, strength)
  return image


def apply_operation(
  name: str, image: np.ndarray, strength: Strength
) -> np.ndarray:
  """The image after one of `OPERATIONS`."""
  return from_pil(OPERATIONS[name](to_pil(image), strength))


def random_erasing(
  rng: np.random.Generator,
  image: np.ndarray,
  p: float = 0.25,
  *,
  area: tuple[float, float] = (0.02, 1 / 3),
  min_aspect: float = 0.3,
  mean: Sequence[float] | float = 0.0,
  std: Sequence[float] | float = 1.0,
) -> np.ndarray:
  """With probability p, a rectangle becomes noise, its pixels independent.

  Its share of the image is uniform in `area`, its height over its width
  log-uniform in [min_aspect, 1 / min_aspect], its place uniform; it must be
  smaller than the image both ways, and after ten draws that are not, nothing
  is erased.

  Args:
    rng: where the draws come from.
    image: float32 [H, W, C], as the network gets it.
    p: probability.
    area: range of the share.
    min_aspect: in (0, 1].
    mean: of the noise, of each channel or all. Where the network normalises
      images in [-1, 1] further, by x -> (x - mean) / std, these are that mean
      and std.
    std: of the noise.

  Raises:
    TypeError: the image is not floating point.
  """
  if image.dtype.kind != "f":
    raise TypeError(f"random_erasing takes images of floats, got {image.dtype}")
  if rng.random() >= p:
    return image
  height, width, channels = image.shape
  limit = -math.log(min_aspect)
  for _ in range(_TRIES):
    target = height * width * rng.uniform(*area)
    aspect = math.exp(rng.uniform(-limit, limit))
    h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
    if h < height and w < width:
      top = rng.integers(0, height - h, endpoint=True)
      left = rng.integers(0, width - w, endpoint=True)
      noise = rng.normal(mean, std, (h, w, channels))
      image = image.copy()
      image[top : top + h, left : left + w] = noise
      break
  return image


def _affine(pil: Any, s: Strength, matrix: tuple[float, ...]) -> Any:
  """The image whose (x, y) is read at (a x + b y + c, d x + e y + f)."""
  module = optional("PIL.Image")
  return pil.transform(
    pil.size,
    module.Transform.AFFINE,
    matrix,
    resampling(s.filter),
    fillcolor=_fill(pil, s),
  )


def _fill(pil: Any, s: Strength) -> int | tuple[int, int, int]:
  return round(sum(s.fill) / 3) if pil.mode == "L" else s.fill


def _rotate(pil: Any, s: Strength) -> Any:
  """By up to 30 degrees, counterclockwise where the sign is 1."""
  degrees = s.level / 10 * 30 * s.sign
  return pil.rotate(degrees, resampling(s.filter), fillcolor=_fill(pil, s))


def _shear_x(pil: Any, s: Strength) -> Any:
  return _affine(pil, s, (1, s.level / 10 * 0.3 * s.sign, 0, 0, 1, 0))


def _shear_y(pil: Any, s: Strength) -> Any:
  return _affine(pil, s, (1, 0, 0, s.level / 10 * 0.3 * s.sign, 1, 0))


def _translate_x(pil: Any, s: Strength) -> Any:
  """By up to 0.45 of the width."""
  pixels = s.level / 10 * 0.45 * s.sign * pil.width
  return _affine(pil, s, (1, 0, pixels, 0, 1, 0))


def _translate_y(pil: Any, s: Strength) -> Any:
  pixels = s.level / 10 * 0.45 * s.sign * pil.height
  return _affine(pil, s, (1, 0, 0, 0, 1, pixels))


def _translate_x_pixels(pil: Any, s: Strength) -> Any:
  """By up to 10 pixels."""
  return _affine(pil, s, (1, 0, s.level * s.sign, 0, 1, 0))


def _translate_y_pixels(pil: Any, s: Strength) -> Any:
  return _affine(pil, s, (1, 0, 0, 0, 1, s.level * s.sign))


def _posterize(pil: Any, s: Strength) -> Any:
  """Keeps 4 bits, and one less for each 2.5 levels: none at level 10."""
  bits = int(s.level / 10 * 4)
  bits = 4 - bits if s.increasing else bits
  # Since Pillow 13 its own `posterize` refuses 0 bits, which gave black.
  return _point(
    pil, [level >> (8 - bits) << (8 - bits) for level in range(256)]
  )


def _solarize(pil: Any, s: Strength) -> Any:
  """Inverts what is at least the threshold."""
  threshold = int(s.level / 10 * 256)
  threshold = 256 - threshold if s.increasing else threshold
  return optional("PIL.ImageOps").solarize(pil, threshold)


def _solarize_add(pil: Any, s: Strength) -> Any:
  """Adds up to 110 to what is below 128."""
  more = int(s.level / 10 * 110)
  table = [min(255, i + more) if i < 128 else i for i in range(256)]
  return _point(pil, table)


def _point(pil: Any, table: list[int]) -> Any:
  """Each level as the table has it, in every channel."""
  return pil.point(table * len(pil.getbands()))


def _enhance(name: str) -> Callable[[Any, Strength], Any]:
  """A factor from 1 on to 0.1 or 1.9, or from 0.1 to 1.9; 1 is no change."""

  def enhance(pil: Any, s: Strength) -> Any:
    factor = s.level / 10 * 1.8 + 0.1
    if s.increasing:
      factor = max(0.1, 1 + s.level / 10 * 0.9 * s.sign)
    return getattr(optional("PIL.ImageEnhance"), name)(pil).enhance(factor)

  return enhance


def _whole(name: str) -> Callable[[Any, Strength], Any]:
  """An operation without a level."""
  return lambda pil, s: getattr(optional("PIL.ImageOps"), name)(pil)


OPERATIONS: dict[str, Callable[[Any, Strength], Any]] = {
  "identity": lambda pil, s: pil,
  "auto_contrast": _whole("autocontrast"),
  "equalize": _whole("equalize"),
  "invert": _whole("invert"),
  "rotate": _rotate,
  "posterize": _posterize,
  "solarize": _solarize,
  "solarize_add": _solarize_add,
  "color": _enhance("Color"),
  "contrast": _enhance("Contrast"),
  "brightness": _enhance("Brightness"),
  "sharpness": _enhance("Sharpness"),
  "shear_x": _shear_x,
  "shear_y": _shear_y,
  "translate_x": _translate_x,
  "translate_y": _translate_y,
  "translate_x_pixels": _translate_x_pixels,
  "translate_y_pixels": _translate_y_pixels,
}
# timm's fifteen, and the ten of BEiT-3's released code.
TIMM_OPS = tuple(OPERATIONS)[1:16]
BEIT3_OPS = (
  "identity",
  "auto_contrast",
  "equalize",
  "brightness",
  "sharpness",
  "shear_x",
  "shear_y",
  "translate_x_pixels",
  "translate_y_pixels",
  "rotate",
)
