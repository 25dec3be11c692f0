"""Folders of images, written here with images that we know."""

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import load, train_batches
from jaxgen.data.images import decode_label_map


def write(path, array, mode=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(array)
  (image.convert(mode) if mode else image).save(path)


def picture(i, height=6, width=5):
  return np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def classes(tmp_path):
  """Two classes and one empty, unsorted, with files that are no images."""
  for i, name in enumerate(
    ("owl/b.png", "cat/2.PNG", "cat/10.png", "owl/a/é.bmp")
  ):
    write(tmp_path / name, picture(i))
  (tmp_path / "newt").mkdir()
  (tmp_path / "owl/notes.txt").write_text("")
  (tmp_path / "readme.png").write_text("not in a class")
  return tmp_path


def test_classes_and_files_are_sorted(classes):
  source = load(f"folder:{classes}")
  assert source.label_names == ("cat", "newt", "owl")
  examples = list(source)
  assert [e["file_name"] for e in examples] == [
    "cat/10.png",
    "cat/2.PNG",
    "owl/b.png",
    "owl/a/é.bmp",
  ]
  assert [e["label"] for e in examples] == [0, 0, 2, 2]
  for example, i in zip(examples, (2, 1, 0, 3), strict=True):
    np.testing.assert_array_equal(example["image"], picture(i))
  batch = next(train_batches(source, 4, 5, 0))
  assert sorted(batch["label"]) == [0, 0, 2, 2]


def test_splits_are_sub_folders(tmp_path):
  for i, name in enumerate(("train/x/1.png", "val/x/1.png", "val/y/1.png")):
    write(tmp_path / name, picture(i))
  assert load(f"folder:{tmp_path}").label_names == ("x",)
  val = load(f"folder:{tmp_path}", "val")
  assert val.label_names == ("x", "y")
  np.testing.assert_array_equal(val[1]["image"], picture(2))
  with pytest.raises(FileNotFoundError, match=r"there is no folder .*/test"):
    load(f"folder:{tmp_path}", "test")


def test_gray_images_become_rgb_and_broken_ones_are_named(classes):
  write(classes / "cat/0.png", picture(9)[..., 0])
  source = load(f"folder:{classes}")
  np.testing.assert_array_equal(
    source[0]["image"], np.stack([picture(9)[..., 0]] * 3, -1)
  )
  whole = (classes / "cat/2.PNG").read_bytes()
  (classes / "cat/2.PNG").write_bytes(whole[:40])
  with pytest.raises(ValueError, match=r"example 2 \(cat/2.PNG\): 40 bytes"):
    source[2]
  (classes / "cat/2.PNG").unlink()
  with pytest.raises(FileNotFoundError, match=r"cat/2\.PNG"):
    source[2]


def test_folders_that_are_none(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"there is no folder .*/nope"):
    load(f"folder:{tmp_path}/nope")
  (tmp_path / "cat").mkdir()
  with pytest.raises(ValueError, match="1 sub-folders without images"):
    load(f"folder:{tmp_path}")


@pytest.fixture
def scenes(tmp_path):
  """Two training images and one to validate, with label maps."""
  for split, names in (("training", "ba"), ("validation", "c")):
    for name in names:
      number = ord(name)
      image = np.full((8, 8, 3), number, np.uint8)  # JPEG keeps even colours
      write(tmp_path / f"images/{split}/{name}.jpg", image)
      labels = np.arange(64, dtype=np.uint8).reshape(8, 8) + number
      write(tmp_path / f"annotations/{split}/{name}.png", labels)
  return tmp_path


def test_label_maps_of_ade20k(scenes):
  source = load(f"ade20k:{scenes}")
  assert [e["file_name"] for e in source] == ["a.jpg", "b.jpg"]
  for example, number in zip(source, b"ab", strict=True):
    assert (example["image"] == number).all()
    labels = example["segmentation"]
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels.ravel(), np.arange(64) + number)
    assert "annotation" not in example
  assert len(load(f"ade20k:{scenes}", "validation")) == 1
  assert len(load(f"ade20k:{scenes}", "training")) == 2


def test_scenes_that_lack_something(scenes):
  with pytest.raises(FileNotFoundError, match=r"no folder .*/images/test"):
    load(f"ade20k:{scenes}", "test")
  labels = scenes / "annotations/training/b.png"
  write(labels, np.zeros((8, 7), np.uint8))
  source = load(f"ade20k:{scenes}")
  with pytest.raises(
    ValueError,
    match=r"b.jpg\): a label map of \(8, 7\) for an image of \(8, 8\)",
  ):
    source[1]
  labels.unlink()
  with pytest.raises(FileNotFoundError, match=r"no label map of 'b\.jpg'"):
    load(f"ade20k:{scenes}")


def test_classes_of_gray_palette_and_red(tmp_path):
  labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
  red = np.stack([labels, labels + 7, labels * 0], -1)
  palette = Image.fromarray(labels, "P")
  palette.putpalette([255 - i for i in range(256) for _ in range(3)])
  palette.save(tmp_path / "palette.png")
  write(tmp_path / "gray.png", labels)
  write(tmp_path / "red.png", red)
  for name in ("gray", "palette", "red"):
    found = decode_label_map((tmp_path / f"{name}.png").read_bytes())
    np.testing.assert_array_equal(found, labels)
