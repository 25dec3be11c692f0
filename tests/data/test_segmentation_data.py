"""Crops of images with labels: OpenCV's pixels, rules on planted labels."""

from pathlib import Path

import numpy as np
import pytest

from jaxgen.data import segmentation
from jaxgen.data.segmentation import SegmentationCrops

OPENCV = np.load(Path(__file__).with_name("segmentation.npz"))
PLAIN = SegmentationCrops(
  crop=8,
  long=32,
  short=8,
  mean=(0.0,),
  std=(1.0,),
  ratios=(1.0, 1.0),
  max_share=1.0,
  flip=False,
  distort=False,
)


class Fixed:
  """A generator whose coins and numbers are given."""

  def __init__(self, coins, numbers):
    self.coins, self.numbers = list(coins), list(numbers)

  def random(self):
    return 0.25 if self.coins.pop(0) else 0.75

  def uniform(self, low, high):
    return self.integers(low, high)

  def integers(self, low, high):
    number = self.numbers.pop(0)
    assert low <= number <= high
    return number


def example(height, width, channels=1, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(0, 256, (height, width, channels), dtype=np.uint8),
    "segmentation": rng.integers(0, 5, (height, width), dtype=np.uint8),
  }


def test_pixels_are_opencvs():
  """Colours and sizes, to one level; labels exactly."""
  rgb, hsv = OPENCV["rgb"], OPENCV["hsv"]
  off = np.abs(segmentation.rgb_to_hsv(rgb).astype(int) - hsv)
  off[..., 0] = np.minimum(off[..., 0], 180 - off[..., 0])
  assert off.max() <= 1
  back = segmentation.hsv_to_rgb(hsv).astype(int)
  assert np.abs(back - OPENCV["back"]).max() <= 1
  for height, width in ((40, 31), (9, 13)):
    found = segmentation.resize_image(rgb, height, width).astype(int)
    want = OPENCV[f"linear_{height}x{width}"]
    assert np.abs(found - want).max() <= 1
    np.testing.assert_array_equal(
      segmentation.resize_labels(rgb[..., 0], height, width),
      OPENCV[f"nearest_{height}x{width}"],
    )


def test_colours_by_hand():
  """Red, green, blue, yellow, a grey; and all of a coarse cube back again."""
  colours = np.uint8(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 200, 0], [9] * 3]
  )
  hsv = [[0, 255, 255], [60, 255, 255], [120, 255, 255], [30, 255, 200]]
  np.testing.assert_array_equal(
    segmentation.rgb_to_hsv(colours), [*hsv, [0, 0, 9]]
  )
  np.testing.assert_array_equal(
    segmentation.hsv_to_rgb(segmentation.rgb_to_hsv(colours)), colours
  )


def test_zero_is_no_class():
  found = segmentation.reduce_zero_label(np.uint8([0, 1, 150, 255]))
  np.testing.assert_array_equal(found, [255, 0, 149, 255])
  assert found.dtype == np.uint8


@pytest.mark.parametrize(
  ("size", "want"),
  [
    ((300, 400), (512, 683)),  # 400 x 512 / 300 = 682.67
    ((683, 512), (683, 512)),
    ((100, 1000), (205, 2048)),  # the longer side is the limit
  ],
)
def test_sizes_by_hand(size, want):
  assert segmentation.fitted_size(*size, 2048, 512) == want


def test_nothing_drawn_is_nothing_changed():
  """The image of crop's size, unchanged, normalised."""
  given = example(8, 8)
  found = PLAIN(given, np.random.default_rng(0))
  np.testing.assert_array_equal(found["image"], given["image"])
  np.testing.assert_array_equal(found["segmentation"], given["segmentation"])
  assert found["image"].dtype == np.float32


def test_image_and_labels_stay_together():
  """Labels that are the image's levels are so after all but the colours."""
  crops = SegmentationCrops(
    8, 40, 10, (0.0,), (1.0,), ratios=(1.0, 1.0), distort=False, max_share=0.5
  )
  labels = np.arange(120, dtype=np.uint8).reshape(10, 12)
  given = {"image": labels[..., None], "segmentation": labels}
  mirrored = 0
  for seed in range(20):
    found = crops(given, np.random.default_rng(seed))
    np.testing.assert_array_equal(found["image"][..., 0], found["segmentation"])
    mirrored += found["image"][0, 0, 0] > found["image"][0, 1, 0]
  assert 3 < mirrored < 17


def test_what_is_outside_does_not_count():
  """A small image is filled up below and right: mean colour, label 255."""
  crops = SegmentationCrops(
    8, 24, 6, (100.0,), (50.0,), ratios=(1.0, 1.0), flip=False, distort=False
  )
  found = crops(example(6, 7), np.random.default_rng(0))
  assert found["image"].shape == (8, 8, 1)
  assert (found["image"][6:] == 0).all()
  assert (found["image"][:, 7:] == 0).all()
  assert (found["segmentation"][6:] == 255).all()
  assert (found["segmentation"][:6, :7] < 5).all()
  inside = (example(6, 7)["image"] - np.float32(100)) / 50
  np.testing.assert_allclose(found["image"][:6, :7], inside)


def test_crops_show_more_than_one_class():
  """Class 1 in one corner only: crops without it are drawn again.

  A crop of 8 x 8 in 32 x 32 sees the corner of 6 x 6 with more than a quarter
  of class 1 only from few places: from top + left small enough.
  """
  labels = np.zeros((16, 16), np.uint8)
  labels[:6, :6] = 1

  def shares(max_share):
    found = []
    for seed in range(300):
      box = segmentation.crop_box(
        labels, 8, max_share, np.random.default_rng(seed)
      )
      found.append(labels[box].mean())
    return np.array(found)

  good = lambda found: (found > 0.25) & (found < 0.75)
  # Of 9 x 9 places: at least 17 of 64 pixels within 6 - top x 6 - left.
  places = sum(y * x > 16 for y in range(1, 7) for x in range(1, 7))
  p = places / 81
  assert abs(good(shares(1.0)).mean() - p) < 0.08
  wanted = 1 - (1 - p) ** 11
  assert abs(good(shares(0.75)).mean() - wanted) < 0.08


def test_pixels_without_label_are_not_counted():
  """All of one class but for 255: no crop will do, the eleventh is taken."""
  labels = np.full((4, 4), 255, np.uint8)
  labels[:2] = 3
  rng = Fixed([], range(22))
  rng.integers = lambda low, high: rng.numbers.pop(0) * 0
  assert segmentation.crop_box(labels, 4, 0.75, rng) == (
    slice(0, 4),
    slice(0, 4),
  )
  assert not rng.numbers


def test_distortion_by_hand():
  image = np.uint8([[[200, 100, 40]]])
  heads, tails = True, False
  nothing = Fixed([tails] * 5, [])
  np.testing.assert_array_equal(segmentation.distort(image, nothing), image)
  # Brighter by 20, then contrast 1.5 at once: (220, 120, 60) -> 330 is cut.
  early = Fixed([heads, heads, heads, tails, tails], [20.0, 1.5])
  np.testing.assert_array_equal(
    segmentation.distort(image, early), [[[255, 180, 90]]]
  )
  # Saturation 204 halved: 102, so that the smallest is 200 (1 - 102 / 255).
  paler = Fixed([tails, tails, heads, tails, tails], [0.5])
  np.testing.assert_allclose(
    segmentation.distort(image, paler), [[[200, 150, 120]]], atol=1
  )
  # Hue turned by 15 steps, 30 degrees, and contrast 0.5 at last.
  turned = Fixed([tails, tails, tails, heads, heads], [15, 0.5])
  # Hue 22.5 degrees becomes 52.5: of red 200 and blue 40, green is 40 + 140.
  np.testing.assert_allclose(
    segmentation.distort(image, turned), [[[100, 90, 20]]], atol=2
  )
  for rng in (nothing, early, paler, turned):
    assert not rng.coins
    assert not rng.numbers


def test_grey_images_have_no_hue():
  image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1) * 10
  for seed in range(8):
    found = segmentation.distort(image, np.random.default_rng(seed))
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    assert (np.diff(found.ravel().astype(int)) >= 0).all()


def test_what_does_not_fit():
  given = example(8, 8)
  del given["segmentation"]
  with pytest.raises(ValueError, match="needs a segmentation, got"):
    PLAIN(given, np.random.default_rng(0))
  given = example(8, 8) | {"segmentation": np.zeros((8, 7), np.uint8)}
  with pytest.raises(ValueError, match=r"\(8, 8\), got \(8, 7\)"):
    PLAIN(given, np.random.default_rng(0))
