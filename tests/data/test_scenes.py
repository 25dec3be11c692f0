"""Scenes of digits with labels."""

import numpy as np
import pytest

from jaxgen import data
from jaxgen.data.scenes import NUM_CLASSES, DigitScenes
from jaxgen.data.segmentation import SegmentationCrops

# Digit d is a square of 20 x 20 pixels of level 200 + d, dimmer at its edge.
SQUARES = []
for d in range(10):
  square = np.zeros((28, 28, 1), np.uint8)
  square[4:24, 4:24] = 100
  square[5:23, 5:23] = 200 + d
  SQUARES.append({"image": square, "label": d})


def test_labels_are_where_the_digits_are():
  scenes = DigitScenes(SQUARES, 40)
  sizes, counts = [], []
  for scene in (scenes[i] for i in range(len(scenes))):
    image, labels = scene["image"][..., 0], scene["segmentation"]
    assert image.shape == labels.shape
    ink = image >= 200
    np.testing.assert_array_equal(labels > 0, ink)
    np.testing.assert_array_equal(labels[ink], image[ink] - 199)
    # No two squares touch: each is whole.
    digits = ink.sum() / 18**2
    assert digits == int(digits)
    assert (image == 100).sum() == digits * (20**2 - 18**2)
    counts.append(digits)
    sizes += labels.shape
  assert 56 <= min(sizes) < 62
  assert 78 < max(sizes) <= 84
  assert 1 <= min(counts) < max(counts) <= 5


def test_a_scene_depends_on_seed_and_number_alone():
  first, second = DigitScenes(SQUARES, 3, (7,)), DigitScenes(SQUARES, 9, (7,))
  for name in ("image", "segmentation"):
    np.testing.assert_array_equal(first[2][name], second[2][name])
    np.testing.assert_array_equal(first[-1][name], second[2][name])
  other = DigitScenes(SQUARES, 3, (8,))[2]["image"]
  assert not np.array_equal(other, first[2]["image"])
  with pytest.raises(IndexError):
    first[3]


def test_scenes_of_real_digits_are_batches():
  """All of the classes occur, and the stream is that of `train_batches`."""
  scenes = DigitScenes(data.load("mnist5k"), 30)
  crops = SegmentationCrops(
    56, 224, 56, (127.5,), (127.5,), max_share=0.95, flip=False
  )
  batch = next(data.train_batches(scenes, 16, 56, 0, transform=crops))
  assert batch["image"].shape == (16, 56, 56, 1)
  assert batch["image"].dtype == np.float32
  assert batch["segmentation"].shape == (16, 56, 56)
  assert batch["segmentation"].dtype == np.uint8
  seen = set(np.unique(batch["segmentation"])) - {255}
  assert seen <= set(range(NUM_CLASSES))
  assert len(seen) > 8
