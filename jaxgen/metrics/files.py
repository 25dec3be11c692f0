"""Statistics and images in files, in the formats of pytorch-fid and ADM."""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.images import decode_image
from jaxgen.metrics.inception_score import ClassSums
from jaxgen.metrics.moments import gaussian
from jaxgen.metrics.statistics import Statistics

_OTHER_IMAGES = {".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def write_statistics(path: str | Path, statistics: Statistics) -> None:
  """Writes an .npz that pytorch-fid, ADM's evaluator and jaxgen read.

  `mu` and `sigma` are the pool features' (both tools), `mu_s` and `sigma_s` the
  spatial features' (ADM); the rest is jaxgen's. It appears whole or not at all.
  """
  s = statistics
  arrays = {"mu": s.pool.mean, "sigma": s.pool.covariance}
  if s.spatial is not None:
    arrays |= {"mu_s": s.spatial.mean, "sigma_s": s.spatial.covariance}
  if s.classes is not None:
    arrays |= {f"classes_{k}": x for k, x in s.classes._asdict().items()}
  if s.kept is not None:
    arrays["kept"] = s.kept
  about = {name: getattr(s, name) for name in ("source", "digest", "n")}
  arrays["about"] = np.array(json.dumps(about | {"network": s.network}))
  write_arrays(path, arrays)


def read_statistics(path: str | Path) -> Statistics:
  """Statistics from an .npz of jaxgen, pytorch-fid or ADM.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged or holds no statistics.
  """
  with _open(path) as arrays:
    if not {"mu", "sigma"} <= set(arrays):
      raise ValueError(
        f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}, wanted mu and "
        "sigma"
      )
    try:
      pool = gaussian(arrays["mu"], arrays["sigma"])
      spatial = None
      if {"mu_s", "sigma_s"} <= set(arrays):
        spatial = gaussian(arrays["mu_s"], arrays["sigma_s"])
    except ValueError as error:
      raise ValueError(f"{path} holds no statistics: {error}") from error
    if "about" not in arrays:
      path = Path(path)
      with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
      return Statistics(path.name, digest, None, None, pool, spatial)
    about = json.loads(str(arrays["about"]))
    classes = None
    if "classes_n" in arrays:
      fields = (arrays[f"classes_{name}"] for name in ClassSums._fields)
      classes = ClassSums(*fields)
    network = about.pop("network")
    return Statistics(
      **about,
      network=network and tuple(network),
      pool=pool,
      spatial=spatial,
      classes=classes,
      kept=arrays.get("kept"),
    )


def write_images(path: str | Path, images: np.ndarray) -> None:
  """Writes uint8 images `[N, H, W, C]` as ADM does, an .npz with `arr_0`.

  Raises:
    TypeError: other images.
  """
  if images.dtype != np.uint8 or images.ndim != 4:
    raise TypeError(
      f"wanted uint8 images [N, H, W, C], got {images.dtype} {images.shape}"
    )
  write_arrays(path, {"arr_0": images})


def read_images(path: str | Path) -> np.ndarray:
  """The uint8 images `[N, H, W, C]` of an .npz of ADM's.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged or holds no images.
  """
  with _open(path) as arrays:
    images = arrays.get("arr_0")
  if images is None or images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(f"{path} has no uint8 images [N, H, W, C] as its arr_0")
  return images


def open_images(path: str | Path, channels: int = 3) -> Sequence[np.ndarray]:
  """The images of a folder of PNG files, by name, or of an .npz of ADM's.

  Args:
    path: folder or file.
    channels: 1 or 3.

  Returns:
    A sequence of uint8 `[H, W, C]`; PNG files are decoded as they are asked
    for.

  Raises:
    FileNotFoundError: there is neither, or the folder has no PNG files.
    ValueError: the folder has images in formats that are not lossless, or the
      file is damaged or holds no images.
  """
  path = Path(path)
  if path.is_dir():
    return _PngFiles(path, channels)
  images = read_images(path)
  if images.shape[-1] != channels:
    if images.shape[-1] != 1:
      raise ValueError(
        f"{path} has images of {images.shape[-1]} channels, wanted {channels}"
      )
    images = np.broadcast_to(images, (*images.shape[:-1], channels))
  return list(images)


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
  """Writes an .npz, whole or not at all.

  Raises:
    OSError: it cannot be written there.
  """
  path = Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
      np.savez(file, **arrays)
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise OSError(f"cannot write {path}: {error}") from error


class _PngFiles(Sequence):
  """Images by file name."""

  def __init__(self, folder: Path, channels: int) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    self._files = [p for p in files if p.suffix.lower() == ".png"]
    self._channels = channels
    others = [p.name for p in files if p.suffix.lower() in _OTHER_IMAGES]
    if others:
      raise ValueError(
        f"{folder} has images that are not PNG, such as {others[0]}: scores "
        "take lossless images"
      )
    if not self._files:
      raise FileNotFoundError(f"{folder} has no PNG files")

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: Any) -> Any:
    path = self._files[index]
    try:
      return decode_image(path.read_bytes(), self._channels)
    except ValueError as error:
      raise ValueError(f"cannot read {path}: {error}") from error


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[dict[str, np.ndarray]]:
  """The arrays of an .npz, read without unpickling anything."""
  if not Path(path).is_file():
    raise FileNotFoundError(f"there is no file {path}")
  try:
    with np.load(path, allow_pickle=False) as arrays:
      content = {name: arrays[name] for name in arrays.files}
  except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path} is not a whole .npz file: {error}") from error
  yield content
