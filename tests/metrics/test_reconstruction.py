import jax
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxgen.metrics.reconstruction import psnr
from jaxgen.metrics.reconstruction import ssim as eager_ssim

# One program instead of one for each of its operations.
ssim = jax.jit(eager_ssim, static_argnames="data_range")


def images(seed, shape=(2, 24, 31, 3)):
  noise = np.random.default_rng(seed).uniform(0, 255, shape)
  return gaussian_filter(noise, (0, 1, 1, 0))


def test_psnr_of_a_constant_error():
  x = images(0)
  np.testing.assert_allclose(psnr(x, x + 1, 255), 48.1308, atol=1e-3)
  np.testing.assert_allclose(psnr(x, x - 25.5, 255), 20, rtol=1e-5)
  np.testing.assert_allclose(psnr(x / 255, x / 255 + 0.1, 1), 20, rtol=1e-4)
  assert np.isinf(psnr(x, x, 255)).all()


def test_ssim_of_constant_images():
  """Only luminance differs: (2 a b + C_1) / (a^2 + b^2 + C_1)."""
  shape = (1, 16, 12, 1)
  c_1 = (0.01 * 255) ** 2
  want = (2 * 100 * 150 + c_1) / (100**2 + 150**2 + c_1)
  got = ssim(np.full(shape, 100), np.full(shape, 150), 255)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_ssim_of_equal_and_of_inverted_images():
  x = images(1)
  np.testing.assert_allclose(ssim(x, x, 255), 1, rtol=1e-6)
  # A fine checkerboard of +-a has mean 0 and variance a^2 in every window.
  a, c_2 = 0.05, (0.03 * 2) ** 2
  board = a * (-1.0) ** np.add.outer(np.arange(20), np.arange(25))
  board = board[None, :, :, None]
  want = (c_2 - 2 * a**2) / (c_2 + 2 * a**2)
  np.testing.assert_allclose(ssim(board, -board, 2), want, rtol=1e-4)


@pytest.mark.parametrize("data_range", [255, 1])
def test_ssim_is_the_paper_with_scipys_windows(data_range):
  """In float64, with scipy's Gaussian, cut to the windows inside the image."""
  scale = data_range / 255
  x = images(3) * scale
  y = x + scale * np.random.default_rng(4).normal(0, 20, x.shape) + 5 * scale
  blur = lambda z: gaussian_filter(z, (0, 1.5, 1.5, 0), truncate=10 / 3)[
    :, 5:-5, 5:-5
  ]
  m_x, m_y = blur(x), blur(y)
  c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
  luminance = (2 * m_x * m_y + c_1) / (m_x**2 + m_y**2 + c_1)
  structure = (2 * (blur(x * y) - m_x * m_y) + c_2) / (
    blur(x**2) - m_x**2 + blur(y**2) - m_y**2 + c_2
  )
  want = (luminance * structure).mean((1, 2, 3))
  assert 0.2 < want.min() < want.max() < 0.98
  got = ssim(x, y, data_range)
  np.testing.assert_allclose(got, want, rtol=2e-5)


def test_bytes_do_not_wrap_around():
  x, y = np.full((1, 16, 16, 1), 3, np.uint8), np.full((1, 16, 16, 1), 5)
  np.testing.assert_allclose(psnr(x, y.astype(np.uint8), 255), 42.1102, 1e-5)


@pytest.mark.parametrize("metric", [psnr, eager_ssim])
def test_bad_input_is_one_sentence(metric):
  x = np.zeros((1, 16, 16, 3))
  with pytest.raises(ValueError, match=r"shape \[B, H, W, C\], got \(1, 16"):
    metric(x, x[:, 1:], 1)
  with pytest.raises(ValueError, match="positive data_range, got 0"):
    metric(x, x, 0)
  if metric is eager_ssim:
    with pytest.raises(ValueError, match="11 x 11 pixels, got 10 x 16"):
      metric(x[:, :10], x[:, :10], 1)
