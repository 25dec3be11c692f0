"""Images as files: PNG that say how they were made, start images, masks."""

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxgen.data import image_grid
from jaxgen.data.images import decode_image
from jaxgen.data.optional import optional
from jaxgen.messages import reason

Parameters = Mapping[str, object]


def save_images(
  directory: str | Path, images: np.ndarray, parameters: Sequence[Parameters]
) -> list[Path]:
  """Writes images uint8 `[N, H, W, 3]`, and several also as a grid.

  They are numbered on from those that are there; the grid has the number of its
  first image.

  Args:
    directory: made if need be.
    images: to write.
    parameters: of each, for `save_png`; the grid has those of the first.

  Returns:
    The paths, the grid's last.

  Raises:
    OSError: a file cannot be written.
  """
  directory = Path(directory)
  names = (path.stem for path in directory.glob("*.png"))
  numbers = [int(name) for name in names if name.isdecimal()]
  first = max(numbers, default=-1) + 1
  paths = [directory / f"{first + i:05d}.png" for i in range(len(images))]
  for path, image, of in zip(paths, images, parameters, strict=True):
    save_png(path, image, of)
  if len(images) > 1:
    paths.append(directory / f"grid-{first:05d}.png")
    save_png(paths[-1], image_grid(images), parameters[0])
  return paths


def save_png(path: Path, image: np.ndarray, parameters: Parameters) -> None:
  """Writes uint8 `[H, W, 3]` as PNG, a text chunk for every parameter.

  Text beyond Latin-1 is an iTXt chunk, other values tEXt. The file appears
  whole or not at all.

  Raises:
    OSError: it cannot be written.
  """
  info = optional("PIL.PngImagePlugin").PngInfo()
  for name, value in parameters.items():
    info.add_text(name, value if isinstance(value, str) else json.dumps(value))
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = optional("PIL.Image").fromarray(image)
    picture.save(temporary, "png", pnginfo=info)
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise OSError(f"cannot write {path}: {error}") from error


def read_parameters(path: str | Path) -> dict[str, str]:
  """What `save_png` wrote beside the image, as text.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no PNG file, or damaged.
  """
  data = _bytes(path)
  try:
    decode_image(data, 3)
    with optional("PIL.Image").open(
      io.BytesIO(data), formats=("PNG",)
    ) as image:
      image.load()
      return {name: str(text) for name, text in image.text.items()}
  except ImportError:
    raise
  except Exception as error:  # as in `decode_image`
    raise ValueError(f"{path} is no whole PNG: {reason(error)}") from error


def read_image(
  path: str | Path, size: tuple[int | None, int | None], multiple: int
) -> np.ndarray:
  """An image uint8 `[H, W, 3]`, resized (Lanczos) to a size.

  Args:
    path: of a PNG, JPEG, ... file.
    size: height and width; where None, the image's own, rounded down to a
      multiple.
    multiple: that height and width must be of.

  Raises:
    FileNotFoundError, ValueError: there is no such image, or it is too small.
  """
  image = decode_image(_bytes(path), 3)
  own = (n // multiple * multiple for n in image.shape)
  height, width = (
    n if want is None else want for n, want in zip(own, size, strict=False)
  )
  if not (height and width):
    raise ValueError(
      f"{path} has {image.shape[0]} x {image.shape[1]} pixels, at least "
      f"{multiple} x {multiple} are wanted"
    )
  return _resized(image, height, width, "LANCZOS")


def read_mask(path: str | Path, height: int, width: int) -> np.ndarray:
  """A mask bool `[H, W]`: where the picture is at least half as light as white.

  Raises:
    FileNotFoundError, ValueError: there is no such image.
  """
  image = decode_image(_bytes(path), 3)
  return _resized(image, height, width, "NEAREST").mean(-1) >= 127.5


def _bytes(path: str | Path) -> bytes:
  if not Path(path).is_file():
    raise FileNotFoundError(f"there is no image {path}")
  return Path(path).read_bytes()


def _resized(
  image: np.ndarray, height: int, width: int, filter_name: str
) -> np.ndarray:
  module = optional("PIL.Image")
  kind = module.Resampling[filter_name]
  return np.asarray(module.fromarray(image).resize((width, height), kind))
