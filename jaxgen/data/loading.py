"""Data sets by name: examples by index, read without TensorFlow.

The names are those of TensorFlow Datasets ("cifar10", "celeb_a",
"lsun/bedroom", "celeb_a_hq/256", "imagenet2012", ...), of two data sets of our
own that need no download, "mnist5k" and "openmoji/32" (or /64, /128), and of
folders: "folder:ROOT" with a sub-folder for each class, "ade20k:ROOT", and
images with texts, "karpathy:ROOT", "nocaps:ROOT", "nlvr2:ROOT", "vqav2:ROOT".
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from jaxgen.data import described, folders, vqa
from jaxgen.data.images import decode_image, decode_label_map
from jaxgen.data.optional import optional

OWN = ("mnist5k", "openmoji")
# Images with texts, in folders as they are published.
_DESCRIBED = {
  "karpathy": described.karpathy,
  "nocaps": described.nocaps,
  "nlvr2": described.nlvr2,
  "vqav2": vqa.vqav2,
}
_WITHOUT_DOWNLOAD = "mnist5k and openmoji/32 need no download"


@dataclasses.dataclass(frozen=True)
class Source(Sequence):
  """The examples of one split, in the fixed order of their files.

  `source[i]` is a dict with `image`, uint8 [H, W, C], and whatever else the
  data set has: `label`, `caption`, ..., and `segmentation`, uint8 [H, W], if it
  has label maps.

  Fields:
    name: what `load` was asked for.
    records: the undecoded examples by index.
    channels: C.
    label_names: the names of the classes; empty without labels.
    segmented: whether the records have an `annotation`, a label map, which
      becomes `segmentation`.
    images: which fields of the records are images.
  """

  name: str
  records: Sequence[dict[str, Any]]
  channels: int
  label_names: tuple[str, ...] = ()
  segmented: bool = False
  images: tuple[str, ...] = ("image",)

  def __len__(self) -> int:
    return len(self.records)

  @overload
  def __getitem__(self, index: int) -> dict[str, Any]: ...
  @overload
  def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
  def __getitem__(self, index: int | slice) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    example = dict(self.records[range(len(self))[index]])
    try:
      for name in self.images:
        example[name] = decode_image(example[name], self.channels)
      if self.segmented:
        example["segmentation"] = _decode_map(
          example.pop("annotation"), example["image"]
        )
    except ValueError as error:
      file = _text(example.get("file_name", ""))
      where = f"example {index}" + (f" ({file})" if file else "")
      raise ValueError(f"{self.name}, {where}: {error}") from error
    return {key: _text(value) for key, value in example.items()}


def load(
  name: str,
  split: str = "train",
  data_dir: str | os.PathLike[str] | None = None,
) -> Source:
  """The examples of a split, by index. Never downloads.

  mnist5k and openmoji are built on first use, in seconds. The label maps of
  TFDS's "scene_parse150" are those of the instance challenge: 100 kinds of
  objects. "ade20k:ROOT" has the 150 classes that papers report.

  Args:
    name: a data set of TFDS or our own, such as "cifar10" or "openmoji/32";
      "folder:ROOT", whose images lie in ROOT/SPLIT/CLASS, or ROOT/CLASS for
      "train"; "ade20k:ROOT", the unpacked ADEChallengeData2016; or one of
      those in `jaxgen.data.described` and `jaxgen.data.vqa`.
    split: "train", "test", "train[:10%]", ... as in TFDS; "train+test", here
      the same as "all", is the 5,000 digits of mnist5k or all of openmoji.
    data_dir: where prepared data sets lie; TFDS's default, $TFDS_DATA_DIR or
      ~/tensorflow_datasets, if None.

  Raises:
    ValueError: there is no such data set or split, or it has no images.
    FileNotFoundError: the data set is not prepared; says how to do it. Or there
      is no such folder.
    ImportError: the `data` extra is not installed.
  """
  kind, _, root = name.partition(":")
  if kind == "folder":
    records = folders.class_folders(root, split)
    return Source(name, records, 3, records.label_names)
  if kind == "ade20k":
    return Source(name, folders.ade20k(root, split), 3, segmented=True)
  if kind in _DESCRIBED and root:
    read = _DESCRIBED[kind](root, split)
    return Source(name, read, 3, read.label_names, images=read.images)
  builder = make_builder(name, data_dir)
  if not builder.data_path.exists():
    if builder.name not in OWN:
      where = "" if data_dir is None else f" --data_dir {data_dir}"
      raise FileNotFoundError(
        f"{name} is not prepared in {builder.data_dir}: run `python -m "
        f"jaxgen.data.prepare {name}{where}`; {_WITHOUT_DOWNLOAD}"
      )
    print(f"building {builder.info.full_name} in {builder.data_dir}")
    prepare_quietly(builder)
    builder = make_builder(name, data_dir)
  return _open(builder, name, split)


def make_builder(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> Any:
  """The TFDS builder of a data set, ours included.

  Raises:
    ValueError: there is no such data set, configuration or version.
    ImportError: its builder needs a package that is not installed.
  """
  tfds = optional("tensorflow_datasets")
  family = name.partition("/")[0].partition(":")[0]
  if family in OWN:
    optional(f"jaxgen.data.datasets.{family}")
  directory = None if data_dir is None else os.fspath(data_dir)
  try:
    return tfds.builder(name, data_dir=directory)
  except ImportError as error:
    raise ImportError(
      f"the builder of {name} needs a package that is not installed: {error}"
    ) from error
  except (ValueError, AssertionError) as error:
    if family not in tfds.list_builders(with_community_datasets=False):
      raise ValueError(
        f"no data set is called {name!r}: tfds.list_builders() has the names; "
        f"{_WITHOUT_DOWNLOAD}"
      ) from error
    configs = ", ".join(tfds.builder_cls(family).builder_configs) or "none"
    raise ValueError(
      f"{family} has no such configuration or version: {name!r} "
      f"(configurations: {configs})"
    ) from error


def prepare_quietly(builder: Any) -> None:
  """Builds one of our own data sets, also while others are building it.

  TFDS writes to a folder of its own and renames it at the end: of several
  processes the first wins, and the others find the data there.
  """
  with _no_progress():
    try:
      builder.download_and_prepare(file_format="array_record")
    except OSError as error:
      if not builder.data_path.exists():
        raise OSError(
          f"cannot build {builder.name} in {builder.data_dir}: {error}"
        ) from error


def _open(builder: Any, name: str, split: str) -> Source:
  tfds = optional("tensorflow_datasets")
  features = dict(builder.info.features.items())
  if not isinstance(features.get("image"), tfds.features.Image):
    raise ValueError(f"{name} has no feature called image: {list(features)}")
  try:
    segmented = isinstance(features.get("annotation"), tfds.features.Image)
    encoded = ("image", "annotation") if segmented else ("image",)
    records = builder.as_data_source(
      split, decoders={key: tfds.decode.SkipDecoding() for key in encoded}
    )
  except NotImplementedError as error:
    raise ValueError(
      f"{builder.data_dir} is stored as {builder.info.file_format.value}, "
      f"which has no random access: run `python -m jaxgen.data.prepare {name} "
      "--data_dir D` with another folder D and load it from there"
    ) from error
  except (ValueError, KeyError) as error:
    splits = ", ".join(builder.info.splits)
    raise ValueError(
      f"{name} has no split {split!r}; it has {splits}"
    ) from error
  return Source(
    name=name,
    records=records,
    channels=features["image"].shape[-1] or 3,
    label_names=tuple(getattr(features.get("label"), "names", ())),
    segmented=segmented,
  )


def _text(value: Any) -> Any:
  return value.decode() if isinstance(value, bytes) else value


def _decode_map(data: bytes, image: np.ndarray) -> np.ndarray:
  labels = decode_label_map(data)
  if labels.shape != image.shape[:2]:
    raise ValueError(
      f"a label map of {labels.shape} for an image of {image.shape[:2]} pixels"
    )
  return labels


@contextlib.contextmanager
def _no_progress() -> Iterator[None]:
  """Hides what TFDS prints while it builds."""
  bars = optional("tensorflow_datasets.core.utils.tqdm_utils")
  active, bars._active = bars._active, False
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    bars._active = active
