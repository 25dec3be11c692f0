import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.data import (
  celeba_crop,
  center_crop_resize,
  image_grid,
  save_png,
  to_uint8,
  to_unit,
)
from jaxgen.data.images import decode_image

LEVELS = np.arange(256, dtype=np.uint8)


def encode(array, mode=None, form="png"):
  out = io.BytesIO()
  image = Image.fromarray(array)
  (image.convert(mode) if mode else image).save(out, form)
  return out.getvalue()


def ramp(height, width):
  """Red counts rows, green counts columns."""
  image = np.zeros((height, width, 3), np.uint8)
  image[..., 0] = np.arange(height)[:, None]
  image[..., 1] = np.arange(width)
  return image


def test_to_unit_maps_0_127_128_255():
  unit = to_unit(np.array([0, 127, 128, 255], np.uint8))
  assert unit.dtype == np.float32
  np.testing.assert_allclose(unit, [-1, -1 / 255, 1 / 255, 1], atol=1e-7)


def test_rounding_undoes_to_unit():
  np.testing.assert_array_equal(to_uint8(to_unit(LEVELS)), LEVELS)
  bfloat16 = jnp.asarray(to_unit(LEVELS[[0, 255]]), jnp.bfloat16)
  np.testing.assert_array_equal(to_uint8(bfloat16), [0, 255])


def test_rounding_and_truncation_differ_by_half_a_level():
  quarter_above = np.float32((LEVELS[:-1] + 0.25) / 127.5 - 1)
  three_quarters_above = np.float32((LEVELS[:-1] + 0.75) / 127.5 - 1)
  for x, rounded in [(quarter_above, 0), (three_quarters_above, 1)]:
    np.testing.assert_array_equal(to_uint8(x), LEVELS[:-1] + rounded)
    np.testing.assert_array_equal(to_uint8(x, truncate=True), LEVELS[:-1])


def test_to_uint8_clips():
  np.testing.assert_array_equal(to_uint8(np.float32([-9, 9])), [0, 255])


def test_value_ranges_are_checked():
  with pytest.raises(TypeError, match="to_unit takes uint8 images, got float"):
    to_unit(np.zeros(3))
  with pytest.raises(TypeError, match="to_uint8 takes floats"):
    to_uint8(LEVELS)
  with pytest.raises(ValueError, match="NaN"):
    to_uint8(np.float32([np.nan]))


def test_decode_keeps_pixels_and_converts_modes():
  colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  np.testing.assert_array_equal(decode_image(encode(colours), 3), colours)
  gray = colours[..., 0]
  np.testing.assert_array_equal(decode_image(encode(gray), 1)[..., 0], gray)
  as_rgb = decode_image(encode(gray), 3)
  np.testing.assert_array_equal(as_rgb, np.stack([gray] * 3, -1))
  opaque = np.dstack([colours, np.full((5, 7), 255, np.uint8)])
  np.testing.assert_array_equal(decode_image(encode(opaque), 3), colours)
  assert decode_image(encode(colours, "CMYK", "jpeg"), 3).shape == (5, 7, 3)


@pytest.mark.parametrize(
  ("data", "channels", "message"),
  [
    (b"", 3, "0 bytes are not a readable image"),
    (b"\x89PNG\r\n\x1a\nrubbish", 3, "not a readable image"),
    (encode(ramp(64, 64))[:-60], 3, "not a readable image"),
    (encode(ramp(64, 64), form="jpeg")[:-200], 3, "not a readable image"),
    (encode(ramp(4, 4)), 1, r"wanted a gray image \(1 channel\), got RGB"),
    (encode(ramp(4, 4)), 2, "1 or 3 channels, got channels=2"),
    (encode(np.zeros((4, 4), np.uint16)), 1, "8 bits a channel"),
  ],
)
def test_decode_refuses(data, channels, message):
  with pytest.raises(ValueError, match=message):
    decode_image(data, channels)


def test_center_crop_takes_the_middle():
  np.testing.assert_array_equal(
    center_crop_resize(ramp(32, 50), 32), ramp(32, 50)[:, 9:41]
  )
  np.testing.assert_array_equal(
    center_crop_resize(ramp(47, 32), 32), ramp(47, 32)[7:39]
  )


def test_center_crop_halves_by_averaging():
  noise = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
  blocks = noise.reshape(32, 4, 48, 4, 3).mean((1, 3))[:, 8:40]
  # PIL rounds after each of the two axes of the two halvings.
  got = center_crop_resize(noise, 32)
  assert np.abs(got - blocks).max() <= 4 * 0.5


def test_center_crop_is_bicubic_below_a_factor_of_2():
  # A ramp stays a ramp: pixel i of the result looks at 1.5 i + 0.25.
  got = center_crop_resize(ramp(96, 96), 64)[4:-4, 4:-4]
  expected = 1.5 * np.arange(64)[4:-4] + 0.25
  assert np.abs(got[..., 0] - expected[:, None]).max() <= 1
  assert np.abs(got[..., 1] - expected).max() <= 1
  # On an edge, unlike box and bilinear filters, bicubic ones overshoot.
  edge = np.full((96, 96, 1), 50, np.uint8)
  edge[:, 48:] = 200
  row = center_crop_resize(edge, 64)[30, :, 0]
  assert row.min() < 50
  assert row.max() > 200


def test_celeba_crop_of_ddim():
  face = ramp(218, 178)
  square = celeba_crop(face, 128)
  np.testing.assert_array_equal(square, face[57:185, 25:153])
  assert tuple(square[64, 64, :2]) == (121, 89)
  # A bilinear filter at factor 2 keeps a ramp: pixel i is at 2 i + 1/2.
  small = celeba_crop(face, 64)[2:-2, 2:-2]
  expected = 57 + 2 * np.arange(64)[2:-2] + 0.5
  assert small.shape == (60, 60, 3)
  assert np.abs(small[..., 0] - expected[:, None]).max() <= 0.5


def test_celeba_crop_of_the_score_papers_is_central():
  square = celeba_crop(ramp(218, 178), 140, box=140, center=(89, 109))
  np.testing.assert_array_equal(square, ramp(218, 178)[39:179, 19:159])


def test_crops_check_their_images():
  for crop in (center_crop_resize, celeba_crop):
    with pytest.raises(
      ValueError, match=r"20 x 30 is too small for image_size"
    ):
      crop(ramp(20, 30), 32)
    with pytest.raises(ValueError, match=r"C = 1 or 3, got \(8, 8, 4\)"):
      crop(np.zeros((8, 8, 4), np.uint8), 4)
    with pytest.raises(TypeError, match="uint8 array"):
      crop(np.zeros((8, 8, 3), np.float32), 4)
  with pytest.raises(ValueError, match="celeba_crop cuts 128 x 128"):
    celeba_crop(ramp(128, 128), 64)


def test_image_grid_places_images_row_by_row():
  images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None]
  images = np.broadcast_to(images, (5, 3, 4, 3))
  grid = image_grid(images, columns=3)
  assert grid.shape == (2 * (3 + 2) + 2, 3 * (4 + 2) + 2, 3)
  assert grid.dtype == np.uint8
  for i in range(5):
    y, x = 2 + (i // 3) * 5, 2 + (i % 3) * 6
    assert (grid[y : y + 3, x : x + 4] == i + 1).all()
  assert grid.astype(int).sum() == images.astype(int).sum()


def test_image_grid_without_padding_is_a_reshape():
  images = np.random.default_rng(0).normal(size=(4, 2, 3, 1))
  grid = image_grid(images, padding=0)
  assert grid.shape == (4, 6, 1)
  np.testing.assert_array_equal(grid[2:, 3:], images[3])


def test_image_grid_checks():
  with pytest.raises(ValueError, match=r"\[N, H, W, C\]"):
    image_grid(np.zeros((4, 4, 3)))
  with pytest.raises(ValueError, match="N >= 1"):
    image_grid(np.zeros((0, 4, 4, 3)))
  with pytest.raises(ValueError, match="columns >= 1"):
    image_grid(np.zeros((2, 4, 4, 3)), columns=0)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3)])
def test_save_png_round_trips(tmp_path, shape):
  image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  path = tmp_path / "new" / "image.png"
  save_png(path, image)
  save_png(path, image)
  read = np.asarray(Image.open(path))
  np.testing.assert_array_equal(read, image.reshape(read.shape))
  assert [p.name for p in path.parent.iterdir()] == ["image.png"]


def test_save_png_says_what_is_wrong(tmp_path):
  image = np.zeros((2, 2, 3), np.uint8)
  with pytest.raises(TypeError, match="uint8 image, got float64"):
    save_png(tmp_path / "a.png", image / 2)
  with pytest.raises(ValueError, match=r"got \(2, 2, 2\)"):
    save_png(tmp_path / "a.png", image[..., :2])
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match=r"cannot write .*file/a.png"):
    save_png(tmp_path / "file" / "a.png", image)
  (tmp_path / "folder.png").mkdir()
  with pytest.raises(OSError, match=r"cannot write .*folder.png"):
    save_png(tmp_path / "folder.png", image)
  assert {p.name for p in tmp_path.iterdir()} == {"file", "folder.png"}
