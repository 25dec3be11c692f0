"""Crops, flips and colours: closed forms, and the bounds of their draws."""

import numpy as np
import pytest

from jaxgen.data.transforms import (
  Box,
  color_jitter,
  eval_crop,
  random_box,
  random_flip,
  render,
)


def ramp(height, width):
  """Red counts rows, green counts columns."""
  image = np.zeros((height, width, 3), np.uint8)
  image[..., 0] = np.arange(height)[:, None]
  image[..., 1] = np.arange(width)
  return image


def noise(height, width, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, channels), np.uint8)


def boxes(height, width, n=2000, **options):
  rng = np.random.default_rng(0)
  return [random_box(rng, height, width, **options) for _ in range(n)]


def test_areas_are_uniform_and_ratios_log_uniform():
  """In an image that every drawn box fits into."""
  drawn = np.array(boxes(1000, 1000, scale=(0.1, 0.5)))
  area = drawn[:, 2] * drawn[:, 3] / 1e6
  ratio = np.log(drawn[:, 3] / drawn[:, 2])
  limit = np.log(4 / 3)
  for values, low, high in ((area, 0.1, 0.5), (ratio, -limit, limit)):
    unit = np.sort((values - low) / (high - low))
    uniform = (np.arange(len(unit)) + 0.5) / len(unit)
    # Kolmogorov and Smirnov's distance, at one in ten thousand.
    assert np.abs(unit - uniform).max() < 2.2 / np.sqrt(len(unit))
  top, left, height, width = drawn.T
  for at, free in ((top, 1000 - height), (left, 1000 - width)):
    share = at / free
    assert abs(share.mean() - 0.5) < 4 / np.sqrt(12 * len(share))


@pytest.mark.parametrize(
  ("shape", "mean", "std"),
  [
    ((28, 28), (4.505, 4.499, 19.0, 18.99), (4.246, 4.23, 5.409, 5.416)),
    ((90, 210), (10.918, 69.3, 68.101, 71.295), (10.77, 41.81, 14.776, 19.217)),
  ],
)
def test_the_originals_statistics(shape, mean, std):
  """BEiT's released code, over 100,000 boxes: top, left, height, width."""
  n = 4000
  drawn = np.array(boxes(*shape, n=n))
  error = 4 * np.array(std) / np.sqrt(n)
  assert (np.abs(drawn.mean(0) - mean) < error).all()
  assert np.abs(drawn.std(0) / std - 1).max() < 0.06


def test_boxes_lie_within_images_of_any_shape():
  for shape in ((28, 28), (5, 100), (100, 5), (2, 3), (1, 1)):
    for top, left, h, w in boxes(*shape, n=100):
      assert h > 0
      assert w > 0
      assert top in range(shape[0] - h + 1)
      assert left in range(shape[1] - w + 1)


@pytest.mark.parametrize(
  ("shape", "expected"),
  [
    ((10, 100), Box(0, 43, 10, 13)),  # 4 : 3, in the middle
    ((100, 12), Box(42, 0, 16, 12)),  # 3 : 4
    ((90, 100), Box(0, 0, 90, 100)),
  ],
)
def test_what_never_fits_is_the_centre(shape, expected):
  assert set(boxes(*shape, n=5, scale=(9, 10))) == {expected}


def test_a_whole_box_of_its_size_is_the_image():
  image = noise(9, 9)
  for filter in ("bilinear", "bicubic", "lanczos"):
    np.testing.assert_array_equal(
      render(image, Box(0, 0, 9, 9), 9, filter), image
    )
  part = render(image, Box(2, 3, 4, 4), 4)
  np.testing.assert_array_equal(part, image[2:6, 3:7])


@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "lanczos"])
def test_ramps_stay_ramps_when_enlarged_or_shrunk(filter):
  for size, box in ((96, Box(16, 32, 48, 48)), (24, Box(16, 32, 48, 48))):
    got = render(ramp(90, 100), box, size, filter).astype(float)
    step = 48 / size
    inner = slice(8 * size // 48, -8 * size // 48)
    rows = 16 + step * (np.arange(size) + 0.5) - 0.5
    columns = 32 + step * (np.arange(size) + 0.5) - 0.5
    assert np.abs(got[..., 0] - rows[:, None])[inner, inner].max() <= 1
    assert np.abs(got[..., 1] - columns)[inner, inner].max() <= 1


def test_nothing_outside_the_box_is_looked_at():
  image = noise(30, 30)
  other = np.zeros_like(image)
  other[5:15, 6:18] = image[5:15, 6:18]
  box = Box(5, 6, 10, 12)
  np.testing.assert_array_equal(
    render(image, box, 28, "lanczos"), render(other, box, 28, "lanczos")
  )


def test_gray_images_stay_gray():
  image = noise(28, 28, 1)
  assert render(image, Box(0, 0, 20, 28), 64).shape == (64, 64, 1)
  assert eval_crop(image, 32).shape == (32, 32, 1)
  rng = np.random.default_rng(0)
  assert color_jitter(rng, image, 0.4, 0.4, 0.4, 0.1).shape == (28, 28, 1)
  np.testing.assert_array_equal(color_jitter(rng, image, 0, 0, 1, 0.5), image)


def test_flips():
  image, rng = noise(4, 5), np.random.default_rng(0)
  flipped = [(random_flip(rng, image) != image).any() for _ in range(400)]
  assert abs(np.mean(flipped) - 0.5) < 4 * 0.5 / 20
  np.testing.assert_array_equal(random_flip(rng, image, 1.0), image[:, ::-1])
  assert random_flip(rng, image, 0.0) is image


def draws(image, n=300, **options):
  rng = np.random.default_rng(0)
  return np.stack([color_jitter(rng, image, **options) for _ in range(n)])


def assert_uniform(values, low, high, width=1e-9):
  """By Kolmogorov and Smirnov's distance, up to rounding by `width`."""
  unit = np.sort((np.asarray(values) - low) / (high - low))
  uniform = (np.arange(len(unit)) + 0.5) / len(unit)
  limit = 2.2 / np.sqrt(len(unit)) + width / (high - low)
  assert np.abs(unit - uniform).max() < limit
  assert unit.min() > -width
  assert unit.max() < 1 + width


def test_brightness_is_a_factor():
  image = np.full((2, 2, 3), (200, 100, 40), np.uint8)
  got = draws(image, brightness=0.2)[:, 0, 0].astype(float)
  assert_uniform(got[:, 0] / 200, 0.8, 1.2, 1 / 200)
  assert np.abs(got / [200, 100, 40] - got[:, :1] / 200).max() < 1 / 40
  # Factors below 0 would be another direction: they are cut off at 0.
  assert_uniform(draws(image // 4, brightness=3)[:, 0, 0, 0] / 50, 0, 4, 1 / 50)


def test_contrast_moves_away_from_the_mean():
  image = np.full((2, 2, 3), 80, np.uint8)
  image[0] = 120
  got = draws(image, contrast=0.4).astype(float)
  assert np.abs(got.mean((1, 2, 3)) - 100).max() <= 1
  spread = got[:, 0, 0, 0] - got[:, 1, 0, 0]
  assert_uniform(spread / 40, 0.6, 1.4, 2 / 40)


def test_saturation_moves_away_from_gray():
  colour = np.array([180, 100, 60])
  gray = (colour * [0.299, 0.587, 0.114]).sum()  # ITU-R 601
  image = np.full((2, 2, 3), colour, np.uint8)
  got = draws(image, saturation=0.4)[:, 0, 0].astype(float)
  assert_uniform((got[:, 0] - gray) / (180 - gray), 0.6, 1.4, 0.03)
  assert np.abs(got @ [0.299, 0.587, 0.114] - gray).max() < 1.5


def test_hue_turns_red_through_all_colours():
  image = np.zeros((1, 1, 3), np.uint8)
  image[..., 0] = 255
  got = draws(image, hue=0.5, n=200)[:, 0, 0].astype(int)
  # Full colours: one channel is 255, another 0.
  assert (got.max(-1) == 255).all()
  assert (got.min(-1) == 0).all()
  assert all((got[:, c] == 255).mean() > 0.2 for c in range(3))
  near = draws(image, hue=0.02, n=50)[:, 0, 0].astype(int)
  assert (near[:, 0] == 255).all()
  assert near[:, 1:].max() <= 255 * 6 * 0.02 + 3


def test_the_order_is_random():
  """Brightness clips before or after contrast: two kinds of results."""
  image = np.zeros((2, 2, 3), np.uint8)
  image[0] = 255
  got = draws(image, n=200, brightness=1.0, contrast=1.0).astype(int)
  # Contrast first leaves black above 0 where contrast falls; a factor of
  # brightness above 1 then clips white only.
  assert ((got == 255).any((1, 2, 3)) & (got > 0).all((1, 2, 3))).any()
  assert (got.reshape(200, -1).min(1) == 0).any()


def test_nothing_asked_for_is_nothing_done():
  image = noise(6, 7)
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(color_jitter(rng, image), image)


def test_eval_crop_takes_the_middle():
  # Short side at its size already: only the crop is left.
  np.testing.assert_array_equal(
    eval_crop(ramp(32, 50), 28), ramp(32, 50)[2:30, 11:39]
  )
  np.testing.assert_array_equal(
    eval_crop(ramp(50, 32), 32, 1.0), ramp(50, 32)[9:41]
  )
  # 224 of 256: a ramp of 128 rows doubles.
  got = eval_crop(ramp(128, 192), 224)[4:-4, 4:-4].astype(float)
  at = (np.arange(224)[4:-4] + 0.5) / 2 - 0.5
  assert np.abs(got[..., 0] - (at + 8)[:, None]).max() <= 1
  assert np.abs(got[..., 1] - (at + 40)).max() <= 1


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda rng: random_box(rng, 9, 9, (0.0, 1.0)), "scale must be 0 < low"),
    (lambda rng: random_box(rng, 9, 9, ratio=(2, 1)), r"ratio .* got \(2, 1\)"),
    (
      lambda rng: render(noise(9, 9), Box(1, 0, 9, 9), 4),
      "not lie in an image",
    ),
    (lambda rng: render(noise(9, 9), Box(0, 0, 9, 9), 0), "at least 1, got 0"),
    (
      lambda rng: render(noise(9, 9), Box(0, 0, 9, 9), 4, "cubic"),
      "bilinear, bicubic or lanczos, got 'cubic'",
    ),
    (lambda rng: color_jitter(rng, noise(9, 9), -0.1), "jitter must be >= 0"),
    (lambda rng: color_jitter(rng, noise(9, 9), hue=0.6), "hue <= 0.5"),
    (lambda rng: eval_crop(noise(9, 9), 8, 1.5), r"in \(0, 1\], got 1.5"),
  ],
)
def test_what_is_wrong_is_said(call, message):
  with pytest.raises(ValueError, match=message):
    call(np.random.default_rng(0))
