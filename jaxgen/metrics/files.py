"""Statistics and images in files, in the formats of pytorch-fid and ADM."""

import contextlib
import hashlib
import json
import math
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.images import decode_image
from jaxgen.json_files import parse_json
from jaxgen.messages import reason, shown
from jaxgen.metrics.inception_score import ClassSums
from jaxgen.metrics.moments import gaussian
from jaxgen.metrics.statistics import Statistics
from jaxgen.zip_files import open_bounded

# Bytes that the arrays of a compressed file may have, and more for each of its
# own: zeros take a thousandth of their size.
_UNPACKED, _UNPACKED_PER_BYTE = 2**26, 20
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
  arrays = _read(path)
  if not {"mu", "sigma"} <= set(arrays):
    names = ", ".join(shown(name)[1:-1] for name in sorted(arrays)[:9])
    raise ValueError(f"{path} holds {names or 'nothing'}, wanted mu and sigma")
  try:
    return _statistics(Path(path), arrays)
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(f"{path} holds no statistics: {reason(error)}") from error


def _statistics(path: Path, arrays: Mapping[str, np.ndarray]) -> Statistics:
  pool = gaussian(arrays["mu"], arrays["sigma"])
  spatial = None
  if {"mu_s", "sigma_s"} <= set(arrays):
    spatial = gaussian(arrays["mu_s"], arrays["sigma_s"])
  if "about" not in arrays:
    with path.open("rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Statistics(path.name, digest, None, None, pool, spatial)
  about = parse_json(str(arrays["about"]), "about")
  network, n = about["network"], about["n"]
  texts = [about["source"], about["digest"], *(network or ())]
  if not all(isinstance(text, str) for text in texts) or (
    network is not None and len(network) != 3
  ):
    raise ValueError(f"their origin is {shown(about)}")
  if not (n is None or (type(n) is int and n > 0)):
    raise ValueError(f"they are of {shown(n)} images")
  classes = None
  if "classes_n" in arrays:
    classes = ClassSums(*(arrays[f"classes_{k}"] for k in ClassSums._fields))
    s, k = classes.p.shape
    if classes.n.shape != (s,) or classes.p_log_p.shape != (s,):
      raise ValueError(f"class sums of {s} splits and {k} classes do not fit")
  kept = arrays.get("kept")
  if kept is not None and kept.shape[1:] != pool.mean.shape:
    raise ValueError(f"kept features have shape {shown(kept.shape)}")
  for array in (kept, *(classes or ())):
    if array is not None and array.dtype.kind not in "iuf":
      raise ValueError(f"they are of type {array.dtype}")
  return Statistics(
    about["source"],
    about["digest"],
    n,
    network and tuple(network),
    pool,
    spatial,
    classes,
    kept,
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
  images = _read(path).get("arr_0")
  if images is None or images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(f"{path} has no uint8 images [N, H, W, C] as its arr_0")
  if not images.size:
    raise ValueError(f"{path} has images of shape {images.shape}, without data")
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


def array_names(path: str | Path) -> set[str]:
  """The names of the arrays of an .npz.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged.
  """
  return set(_read(path, names_only=True))


def _read(path: str | Path, names_only: bool = False) -> dict[str, np.ndarray]:
  """The arrays of an .npz, read without unpickling anything."""
  if not Path(path).is_file():
    raise FileNotFoundError(f"there is no file {path}")
  try:
    with open_bounded(path) as file, zipfile.ZipFile(file) as archive:
      infos = archive.infolist()
      most = _UNPACKED + _UNPACKED_PER_BYTE * Path(path).stat().st_size
      if sum(info.file_size for info in infos) > most:
        raise ValueError(f"it would unpack to over {most:,} bytes")
      found: dict[str, Any] = {}
      for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in found:
          raise ValueError(f"it has two arrays {shown(name)}")
        found[name] = None if names_only else _array(archive, info)
      return found
  except Exception as error:  # numpy and zipfile raise a dozen kinds
    raise ValueError(
      f"{path} is not a whole .npz file: {reason(error)}"
    ) from error


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
  """An array, once its header agrees with the size of its record."""
  layout = np.lib.format
  with archive.open(info) as file:
    version = layout.read_magic(file)
    if version not in ((1, 0), (2, 0)):
      raise ValueError(f"its format is {version}")
    read_header = {
      1: layout.read_array_header_1_0,
      2: layout.read_array_header_2_0,
    }[version[0]]
    shape, _, dtype = read_header(file)
    if dtype.hasobject or dtype.kind == "V":
      raise ValueError("it holds Python objects or records")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or file.tell() + size != info.file_size:
      raise ValueError(f"an array of shape {shown(shape)} is not all there")
  with archive.open(info) as file:
    array = layout.read_array(file, allow_pickle=False)
  if dtype.kind == "U":  # numpy would make strings of any numbers
    codes = np.frombuffer(array.tobytes(), f"{dtype.str[0]}u4")
    if codes.max(initial=0) > sys.maxunicode:
      raise ValueError("it holds a text of characters that do not exist")
  return array
