"""Images with texts in folders as they are published: captions, statements.

The records here are what `jaxgen.data.load` decodes for the names
"karpathy:ROOT", "nocaps:ROOT" and "nlvr2:ROOT"; VQAv2's are in
`jaxgen.data.vqa`. The folders are laid out as BEiT-3's released code wants
them.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgen.data.optional import published
from jaxgen.json_files import parse_json, read_entries
from jaxgen.messages import shown

_KARPATHY = (
  "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
)
_NOCAPS = "https://nocaps.org"
_NLVR2 = "https://github.com/lil-lab/nlvr"
# Split -> file of statements, folder of images.
_NLVR2_SPLITS = {
  "train": ("train.json", "images/train"),
  "dev": ("dev.json", "dev"),
  "test": ("test1.json", "test1"),
}
_NOCAPS_SPLITS = {
  "val": "nocaps_val_4500_captions.json",
  "test": "nocaps_test_image_info.json",
}


@dataclasses.dataclass(frozen=True)
class Described(Sequence):
  """Undecoded images and what is said of them.

  Fields:
    root: the folder that images' names are below.
    entries: of each example its texts and more, and the images' names.
    images: which entries are images.
    label_names: what labels mean.
  """

  root: Path
  entries: Sequence[dict[str, Any]]
  images: tuple[str, ...] = ("image",)
  label_names: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.entries)

  def __getitem__(self, index: Any) -> Any:
    entry = dict(self.entries[index])
    found = {"file_name": entry["image"]}
    for name in self.images:
      found[name] = _read_below(self.root, entry.pop(name))
    return entry | found


def karpathy(root: str | os.PathLike[str], split: str) -> Described:
  """COCO's or Flickr30k's images with five captions, as Karpathy split them.

  Of COCO, ROOT/dataset_coco.json and ROOT/train2014, ROOT/val2014; of Flickr30k
  ROOT/dataset_flickr30k.json and ROOT/flickr30k-images (Karpathy & Fei-Fei
  2015). An example has `image`, `captions` and `image_id`, COCO's own number.

  Args:
    root: the folder.
    split: "train", "val", "test" or COCO's "restval", or several: "train+val".

  Raises:
    FileNotFoundError: there is no such file; says where it is published.
    ValueError: it is damaged, holds something else, or has no such split.
  """
  top = Path(root).expanduser()
  path = top / "dataset_flickr30k.json"
  if not path.is_file():
    path = published(top / "dataset_coco.json", _KARPATHY)
  entries, known = [], set()
  for image in listed(path, "images"):
    check(path, image, filename=str, split=str, sentences=list, imgid=int)
    known.add(image["split"])
    if image["split"] not in split.split("+"):
      continue
    captions = []
    for sentence in image["sentences"]:
      check(path, sentence, raw=str)
      captions.append(sentence["raw"])
    folder = image.get("filepath", "flickr30k-images")
    name = image.get("cocoid", image["imgid"])
    entries.append(
      {
        "image": f"{folder}/{image['filename']}",
        "captions": captions,
        "image_id": name,
      }
    )
  unknown = sorted(set(split.split("+")) - known)
  if unknown:
    has = ", ".join(map(shown, sorted(known)[:9])) or "none"
    raise ValueError(f"{path} has no split {unknown[0]!r}; it has {has}")
  return Described(top, entries)


def nocaps(root: str | os.PathLike[str], split: str) -> Described:
  """NoCaps' images (Agrawal et al. 2019), in ROOT/val and ROOT/test.

  Beside them nocaps_val_4500_captions.json and nocaps_test_image_info.json. An
  example has `image`, `captions`, none in "test", and `image_id`.

  Raises:
    FileNotFoundError: there is no such file; says where it is published.
    ValueError: it is damaged, holds something else, or there is no such split.
  """
  top = Path(root).expanduser()
  path = published(top / _of_split(_NOCAPS_SPLITS, "NoCaps", split), _NOCAPS)
  content = read_entries(path)
  captions: dict[int, list[str]] = {}
  if "annotations" in content:
    for note in listed(path, "annotations", content):
      check(path, note, image_id=int, caption=str)
      captions.setdefault(note["image_id"], []).append(note["caption"])
  entries = []
  for image in listed(path, "images", content):
    check(path, image, id=int, file_name=str)
    entries.append(
      {
        "image": f"{split}/{image['file_name']}",
        "captions": captions.get(image["id"], []),
        "image_id": image["id"],
      }
    )
  return Described(top, entries)


def nlvr2(root: str | os.PathLike[str], split: str) -> Described:
  """NLVR2's statements about two photographs (Suhr et al. 2019).

  ROOT/nlvr is a checkout of the published repository; its images, which are
  asked for there, are in ROOT/images/train, ROOT/dev and ROOT/test1. An example
  has `image` and `other`, the left one and the right one, `statement` and
  `label`, 1 where it is true of them.

  Args:
    root: the folder.
    split: "train", "dev" or "test", the public test set, "test-P".

  Raises:
    FileNotFoundError: there is no such file; says where it is published.
    ValueError: it is damaged, holds something else, or there is no such split.
  """
  top = Path(root).expanduser()
  name, folder = _of_split(_NLVR2_SPLITS, "NLVR2", split)
  path = published(top / "nlvr/nlvr2/data" / name, _NLVR2)
  entries = []
  with path.open("rb") as lines:
    for number, line in enumerate(lines, 1):
      note = parse_json(line, f"{path}, line {number},")
      check(path, note, identifier=str, sentence=str, label=str)
      if note["label"] not in ("True", "False"):
        raise ValueError(
          f"{path}, line {number}, should have the label True or False, got "
          f"{shown(note['label'])}"
        )
      # The last part tells apart the statements about one pair of images.
      pair = note["identifier"].rpartition("-")[0]
      if "directory" in note:
        pair = f"{note['directory']}/{pair}"
      entries.append(
        {
          "image": f"{folder}/{pair}-img0.png",
          "other": f"{folder}/{pair}-img1.png",
          "statement": note["sentence"],
          "label": int(note["label"] == "True"),
        }
      )
  return Described(top, entries, ("image", "other"), ("False", "True"))


def _read_below(root: Path, name: str) -> bytes:
  """The bytes of an image, whose name is from a file and must not lead away."""
  path = Path(name)
  if path.is_absolute() or ".." in path.parts:
    raise ValueError(f"{root} has no image {shown(name)}: it lies outside")
  try:
    return (root / path).read_bytes()
  except (OSError, ValueError) as error:  # some text is no name of a file
    why = getattr(error, "strerror", "no file can have this name")
    raise FileNotFoundError(
      f"cannot read the image {shown(name)} in {root}: {why}"
    ) from error


def listed(
  path: Path, name: str, content: dict[str, Any] | None = None
) -> list[Any]:
  """The list of that name in a JSON file.

  Raises:
    ValueError: the file is damaged or has no such list.
  """
  found = (read_entries(path) if content is None else content).get(name)
  if not isinstance(found, list):
    raise ValueError(f"{path} should hold a list {name!r}, got {shown(found)}")
  return found


def check(path: Path, entry: Any, **kinds: type) -> None:
  """Refuses an entry of a file that lacks what it should have.

  Raises:
    ValueError: it is of another type, or a field is.
  """
  fits = isinstance(entry, dict) and all(
    isinstance(entry.get(name), kind) for name, kind in kinds.items()
  )
  if not fits:
    wanted = ", ".join(
      f"{name} ({kind.__name__})" for name, kind in kinds.items()
    )
    raise ValueError(
      f"{path} should hold entries with {wanted}, got {shown(entry)}"
    )


def _of_split(splits: dict[str, Any], name: str, split: str) -> Any:
  if split not in splits:
    raise ValueError(
      f"{name} has no split {split!r}; it has {', '.join(splits)}"
    )
  return splits[split]
