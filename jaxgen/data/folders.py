"""Images in folders as they are unpacked: by class, or beside label maps.

The records here are what `jaxgen.data.load` decodes for the names
"folder:ROOT" and "ade20k:ROOT".
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.messages import shown

EXTENSIONS = (
  *(".jpg", ".jpeg", ".png", ".webp", ".bmp"),
  *(".ppm", ".pgm", ".tif", ".tiff"),
)
_ADE20K_SPLITS = {"train": "training"}


@dataclasses.dataclass(frozen=True)
class ClassFolders(Sequence):
  """Undecoded images of a folder whose sub-folders are the classes.

  Fields:
    root: the folder.
    files: the images' names below it, bytes `[N]`: those of millions of images
      take little memory.
    labels: `[N]`, the number of the class in `label_names`.
    label_names: the sub-folders in alphabetical order.
  """

  root: Path
  files: np.ndarray
  labels: np.ndarray
  label_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: Any) -> Any:
    name = os.fsdecode(self.files[index])
    data = (self.root / name).read_bytes()
    label = int(self.labels[index])
    return {"image": data, "label": label, "file_name": name}


def class_folders(root: str | os.PathLike[str], split: str) -> ClassFolders:
  """The images of ROOT/SPLIT, or of ROOT itself for "train".

  All images below a class's folder belong to it; other files are left out.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it has no sub-folders, or they hold no image.
  """
  top = _folder(root)
  if split and (top / split).is_dir():
    top = top / split
  elif split != "train":
    raise FileNotFoundError(f"there is no folder {top / split}")
  names = sorted(name for name in os.listdir(top) if (top / name).is_dir())
  files, labels = [], []
  for label, name in enumerate(names):
    found = [os.fsencode(f"{name}/{file}") for file in _images(top / name)]
    files += found
    labels += [label] * len(found)
  if not files:
    raise ValueError(
      f"{top} has {len(names)} sub-folders without images: it should have one "
      "for each class"
    )
  return ClassFolders(
    top, np.array(files), np.array(labels, np.int32), tuple(names)
  )


@dataclasses.dataclass(frozen=True)
class LabelMaps(Sequence):
  """Undecoded images and their label maps, which bear the same names.

  Fields:
    images: folder of the images.
    maps: folder of the label maps, as PNG.
    files: the images' names in it.
  """

  images: Path
  maps: Path
  files: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: Any) -> Any:
    name = self.files[index]
    return {
      "image": (self.images / name).read_bytes(),
      "annotation": (self.maps / name).with_suffix(".png").read_bytes(),
      "file_name": name,
    }


def ade20k(root: str | os.PathLike[str], split: str) -> LabelMaps:
  """ADE20K's scene parsing benchmark, as ADEChallengeData2016.zip holds it.

  ROOT/images/SPLIT/NAME.jpg and ROOT/annotations/SPLIT/NAME.png, the latter
  with 0 for what is not judged and the classes 1, ..., 150.

  Args:
    root: the unpacked folder.
    split: "train" (or its own name, "training") or "validation".

  Raises:
    FileNotFoundError: there is no such folder, or an image without its map.
    ValueError: there are no images.
  """
  top = _folder(root)
  split = _ADE20K_SPLITS.get(split, split)
  images = _folder(top / "images" / split)
  maps = _folder(top / "annotations" / split)
  files = tuple(_images(images))
  for name in files:
    if not os.path.isfile((maps / name).with_suffix(".png")):
      raise FileNotFoundError(f"{maps} has no label map of {shown(name)}")
  if not files:
    raise ValueError(f"{images} has no images")
  return LabelMaps(images, maps, files)


def _folder(path: str | os.PathLike[str]) -> Path:
  path = Path(path).expanduser()
  if not path.is_dir():
    raise FileNotFoundError(f"there is no folder {path}")
  return path


def _images(folder: Path) -> Iterator[str]:
  """The names of all images below a folder, in a fixed order.

  Links are followed, but each folder is looked into once: links can lead back.
  What is no regular file, such as a pipe that would be waited for, is left out.
  """
  found, seen = [], set()
  for parent, folders, names in os.walk(folder, followlinks=True):
    folders.sort()
    status = os.stat(parent)
    if (status.st_dev, status.st_ino) in seen:
      folders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    found.append((parent, names))
  for parent, names in sorted(found):
    below = os.path.relpath(parent, folder)
    prefix = "" if below == os.curdir else f"{below}/"
    for name in sorted(names):
      path = os.path.join(parent, name)
      if name.lower().endswith(EXTENSIONS) and os.path.isfile(path):
        yield prefix + name
