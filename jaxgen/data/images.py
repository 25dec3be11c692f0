"""Images as arrays: decoding, cropping, value ranges, grids and PNG files.

An image is uint8 [H, W, C] with C = 1 or 3. A crop is a function
`(image, size) -> [size, size, C]`; where it resizes, it resizes with PIL.
"""

import contextlib
import io
import math
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxgen.data.optional import optional
from jaxgen.messages import reason

Images = TypeVar("Images", np.ndarray, jax.Array)
_MODES = {1: "L", 3: "RGB"}
_GRAY_MODES = {"1", "L"}
# Of the data sets. PIL knows more, among them PostScript, which it would hand
# to a program that runs it.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
# Pixels that an image may have, and more for each byte: a file of 100 kB can
# describe as many as fill the memory.
_PIXELS, _PIXELS_PER_BYTE = 2**24, 20
_WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def to_unit(images: np.ndarray) -> np.ndarray:
  """uint8 -> float32 in [-1, 1]: x / 127.5 - 1 (Ho et al. 2020, section 3.3).

  Raises:
    TypeError: the images are not uint8.
  """
  if images.dtype != np.uint8:
    raise TypeError(f"to_unit takes uint8 images, got {images.dtype}")
  return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(
  images: np.ndarray | jax.Array, truncate: bool = False
) -> np.ndarray:
  """Values in [-1, 1] -> uint8; values outside are clipped.

  Rounds to the nearest level, floor(127.5 x + 128), which undoes `to_unit`
  exactly. `truncate` is the rule of score-SDE and of OpenAI's code,
  floor(127.5 (x + 1)), on average half a level darker: FIDs under different
  rules do not compare.

  Raises:
    TypeError: the images are not floating point.
    ValueError: a value is not a number.
  """
  x = np.asarray(images)
  if x.dtype.kind in "biu":
    raise TypeError(f"to_uint8 takes floats in [-1, 1], got {x.dtype}")
  x = x.astype(np.float32)
  if np.isnan(x).any():
    raise ValueError("to_uint8 got images with NaN")
  x = (x + 1) * 127.5 if truncate else x * 127.5 + 128
  return np.clip(np.floor(x), 0, 255).astype(np.uint8)


def decode_image(data: bytes, channels: int) -> np.ndarray:
  """PNG, JPEG, ... bytes -> uint8 [H, W, channels].

  Gray, palette and CMYK images become RGB where 3 channels are asked for;
  transparency is dropped.

  Raises:
    ValueError: the bytes hold no readable image, or one of 16 bits, or one
      with colours where 1 channel is asked for, or far more pixels than bytes.
  """
  if channels not in _MODES:
    raise ValueError(f"images have 1 or 3 channels, got channels={channels}")
  image = _open(data)
  if channels == 1 and image.mode not in _GRAY_MODES:
    raise ValueError(f"wanted a gray image (1 channel), got {image.mode}")
  return from_pil(image.convert(_MODES[channels]))


def decode_label_map(data: bytes) -> np.ndarray:
  """PNG bytes -> uint8 [H, W], the class of each pixel.

  Gray levels and numbers of a palette are classes; of a map in colours the red
  channel is, as in ADE20K's annotations of instances.

  Raises:
    ValueError: the bytes hold no readable image, or one of 16 bits, or far more
      pixels than bytes.
  """
  image = _open(data)
  if image.mode in ("L", "P"):
    return np.asarray(image)
  return np.asarray(image.convert("RGB"))[..., 0]


def center_crop_resize(image: np.ndarray, size: int) -> np.ndarray:
  """The central square, as OpenAI prepares ImageNet and LSUN.

  Halves with a box filter while the short side is at least 2 size, brings the
  short side to `size` with a bicubic filter, then cuts out the centre.

  Raises:
    ValueError: the image is smaller than `size`.
  """
  height, width = _check_size(image, size)
  if (height, width) == (size, size):
    return image
  filters = optional("PIL.Image").Resampling
  pil = to_pil(image)
  while min(pil.size) >= 2 * size:
    pil = pil.resize((pil.width // 2, pil.height // 2), filters.BOX)
  scale = size / min(pil.size)
  pil = pil.resize(
    (round(pil.width * scale), round(pil.height * scale)), filters.BICUBIC
  )
  left, top = (pil.width - size) // 2, (pil.height - size) // 2
  return from_pil(pil)[top : top + size, left : left + size]


def celeba_crop(
  image: np.ndarray,
  size: int,
  box: int = 128,
  center: tuple[int, int] = (89, 121),
) -> np.ndarray:
  """A square of aligned CelebA (218 x 178) around the face, resized bilinearly.

  The defaults are DDIM's: 128 x 128 around x = 89, y = 121. The score-based
  papers cut 140 x 140 from the middle: box=140, center=(89, 109).

  Raises:
    ValueError: the box does not lie within the image, or is smaller than
      `size`.
  """
  height, width = _check_size(image, size)
  left, top = center[0] - box // 2, center[1] - box // 2
  inside = left >= 0 and top >= 0 and left + box <= width
  if not inside or top + box > height or box < size:
    raise ValueError(
      f"celeba_crop cuts {box} x {box} around {center} and shrinks it to "
      f"{size}, got an image of {height} x {width}"
    )
  bilinear = optional("PIL.Image").Resampling.BILINEAR
  square = to_pil(image[top : top + box, left : left + box])
  return from_pil(square.resize((size, size), bilinear))


def shrink(images: Images, size: int) -> Images:
  """Images `[B, H, H, C]` as `[B, size, size, C]`: means over blocks.

  What improved DDPM's upsamplers are told of an image in training.

  Raises:
    ValueError: size does not divide H.
  """
  b, h, w, c = images.shape
  if h != w or h % size:
    raise ValueError(
      f"shrink needs square images whose height {size} divides, got {h} x {w}"
    )
  block = h // size
  return images.reshape(b, size, block, size, block, c).mean((2, 4))


def image_grid(
  images: np.ndarray, columns: int | None = None, padding: int = 2
) -> np.ndarray:
  """Images [N, H, W, C] in rows of `columns` -> one array [H', W', C].

  Lines of `padding` zeros separate and surround the images, and zeros fill the
  last row. By default the grid is as square as N allows.

  Raises:
    ValueError: not of shape [N, H, W, C] with N >= 1, or columns < 1.
  """
  images = np.asarray(images)
  if images.ndim != 4 or len(images) == 0:
    raise ValueError(
      f"image_grid takes images [N, H, W, C] with N >= 1, got {images.shape}"
    )
  n, height, width, channels = images.shape
  columns = math.ceil(math.sqrt(n)) if columns is None else columns
  if columns < 1 or padding < 0:
    raise ValueError(
      f"image_grid needs columns >= 1 and padding >= 0, got {columns}, "
      f"{padding}"
    )
  rows = -(-n // columns)
  filled = np.zeros((rows * columns, height, width, channels), images.dtype)
  filled[:n] = images
  before, none = (padding, 0), (0, 0)
  cells = np.pad(filled, (none, before, before, none))
  cells = cells.reshape(rows, columns, *cells.shape[1:])
  grid = cells.transpose(0, 2, 1, 3, 4).reshape(
    rows * (height + padding), columns * (width + padding), channels
  )
  return np.pad(grid, ((0, padding), (0, padding), none))


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
  """Writes uint8 [H, W], [H, W, 1] or [H, W, 3] as a PNG file.

  Missing folders are made. The file appears whole or not at all.

  Raises:
    TypeError, ValueError: the array is no such image.
    OSError: the file cannot be written there.
  """
  image = np.asarray(image)
  if image.dtype != np.uint8:
    raise TypeError(f"save_png takes a uint8 image, got {image.dtype}")
  if image.ndim == 2:
    image = image[..., None]
  pil = to_pil(image)
  path = Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    pil.save(temporary, "png")
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise OSError(f"cannot write {path}: {error}") from error


def check_image(image: np.ndarray) -> np.ndarray:
  """The image, or a TypeError or ValueError if it is not uint8 [H, W, 1|3]."""
  if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
    got = getattr(image, "dtype", type(image).__name__)
    raise TypeError(f"an image is a uint8 array [H, W, C], got {got}")
  if image.ndim != 3 or image.shape[-1] not in _MODES:
    raise ValueError(
      f"an image has shape [H, W, C] with C = 1 or 3, got {image.shape}"
    )
  return image


def _open(data: bytes) -> Any:
  """The image that the bytes hold, loaded by PIL."""
  try:
    image = optional("PIL.Image").open(io.BytesIO(data), formats=_FORMATS)
    if image.width * image.height > _PIXELS + _PIXELS_PER_BYTE * len(data):
      raise ValueError(f"it would have {image.width} x {image.height} pixels")
    image.load()
  except ImportError:
    raise
  except Exception as error:  # PIL raises half a dozen kinds on broken bytes.
    raise ValueError(
      f"{len(data)} bytes are not a readable image: {reason(error)}"
    ) from error
  if image.mode in _WIDE_MODES:
    raise ValueError(f"images have 8 bits a channel, got mode {image.mode}")
  return image


def _check_size(image: np.ndarray, size: int) -> tuple[int, int]:
  height, width, _ = check_image(image).shape
  if size < 1 or min(height, width) < size:
    raise ValueError(
      f"an image of {height} x {width} is too small for image_size={size}; "
      "images are never enlarged"
    )
  return height, width


def to_pil(image: np.ndarray) -> Any:
  """The image as PIL has it; TypeError or ValueError if it is none."""
  gray = check_image(image).shape[-1] == 1
  return optional("PIL.Image").fromarray(image[..., 0] if gray else image)


def from_pil(pil: Any) -> np.ndarray:
  """uint8 [H, W, C] of an image of PIL, not to be written to."""
  array = np.asarray(pil)
  return array[..., None] if array.ndim == 2 else array
