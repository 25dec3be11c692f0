import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.metrics.resize import RESIZES, clean, pytorch_fid, tf1

SIZES = [(32, 32), (64, 40), (299, 299), (320, 257), (600, 31)]


def images(height, width, channels=3, batch=2):
  rng = np.random.default_rng(0)
  shape = (batch, height, width, channels)
  return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_clean_is_pil(size):
  """clean-fid's recipe: each channel as a float image, resized by PIL."""
  x = images(*size)
  want = [
    np.asarray(
      Image.fromarray(channel.astype(np.float32)).resize(
        (299, 299), Image.Resampling.BICUBIC
      )
    ).clip(0, 255)
    for channel in np.moveaxis(x, -1, 1).reshape(-1, *size)
  ]
  want = np.moveaxis(np.reshape(want, (2, 3, 299, 299)), 1, -1)
  got = jax.jit(clean)(x) * 128 + 128
  np.testing.assert_allclose(got, want, atol=1e-3)  # of 255


def test_affine_images_stay_affine():
  rows, columns = np.mgrid[:40, :60]
  x = (5 + 2 * rows + 2 * columns).astype(np.uint8)[None, :, :, None]
  i, j = np.mgrid[:299, :299]
  legacy = (
    5 + 2 * np.minimum(i * 40 / 299, 39) + 2 * np.minimum(j * 60 / 299, 59)
  )
  np.testing.assert_allclose(tf1(x)[0, ..., 1], (legacy - 128) / 128, atol=2e-5)
  row = ((i + 0.5) * 40 / 299 - 0.5).clip(0, 39)
  column = ((j + 0.5) * 60 / 299 - 0.5).clip(0, 59)
  half_pixel = 5 + 2 * row + 2 * column
  np.testing.assert_allclose(
    pytorch_fid(x)[0, ..., 1], half_pixel / 127.5 - 1, atol=2e-5
  )


@pytest.mark.parametrize("name", RESIZES)
def test_images_of_299_keep_their_pixels(name):
  x = images(299, 299)
  scale, shift = (127.5, 127.5) if name == "pytorch-fid" else (128, 128)
  got = RESIZES[name](jnp.asarray(x)) * scale + shift
  np.testing.assert_allclose(got, x, atol=1e-4)


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_images_stay_constant(name, value):
  x = np.full((1, 33, 500, 3), value, np.uint8)
  got = RESIZES[name](x)
  assert got.shape == (1, 299, 299, 3)
  assert got.dtype == jnp.float32
  want = value / 127.5 - 1 if name == "pytorch-fid" else value / 128 - 1
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("name", RESIZES)
def test_grey_is_repeated(name):
  grey = images(28, 28, channels=1)
  np.testing.assert_array_equal(
    RESIZES[name](grey), RESIZES[name](grey.repeat(3, axis=-1))
  )


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize(
  ("x", "message"),
  [
    (np.zeros((1, 8, 8, 3), np.float32), "needs uint8 images"),
    (np.zeros((8, 8, 3), np.uint8), "needs uint8 images"),
    (np.zeros((1, 8, 8, 4), np.uint8), "1 or 3 channels, got 4"),
  ],
)
def test_bad_input_is_one_sentence(name, x, message):
  with pytest.raises(ValueError, match=message):
    RESIZES[name](x)
