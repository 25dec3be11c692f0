"""Fidelity of reconstructed images to their originals: PSNR and SSIM."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array

_WINDOW, _SIGMA = 11, 1.5
_K_1, _K_2 = 0.01, 0.03


def psnr(x: Array, y: Array, data_range: float) -> Array:
  """Peak signal-to-noise ratio, 10 log10(L^2 / mean (x - y)^2), in dB.

  Args:
    x: images `[B, H, W, C]`.
    y: images of the same shape.
    data_range: L, the largest possible minus the smallest possible value: 255
      for bytes, 2 for images in [-1, 1].

  Returns:
    `[B]`; infinite where the images are equal.

  Raises:
    ValueError: if the shapes are not such, or the range is not positive.
  """
  x, y = _check("psnr", x, y, data_range)
  errors = jnp.square((x - y) / data_range).mean((1, 2, 3))
  return -10.0 * jnp.log10(errors)


def ssim(x: Array, y: Array, data_range: float) -> Array:
  """The structural similarity index (Wang et al. 2004, Eq. 13).

      (2 m_x m_y + C_1) (2 s_xy + C_2)
      ------------------------------------------------,  C_i = (K_i L)^2
      (m_x^2 + m_y^2 + C_1) (s_x^2 + s_y^2 + C_2)

  As in section III-C: means m, variances s^2 and the covariance s_xy are
  weighted by a Gaussian of standard deviation 1.5 in a window of 11 x 11;
  K_1 = 0.01, K_2 = 0.03. The mean is taken over all positions of the window
  inside the image, and over channels. The paper's images are grey.

  Args:
    x: images `[B, H, W, C]`.
    y: images of the same shape.
    data_range: L, as for `psnr`.

  Returns:
    `[B]`, at most 1.

  Raises:
    ValueError: if the shapes are not such or smaller than the window, or the
      range is not positive.
  """
  x, y = _check("ssim", x, y, data_range)
  if min(x.shape[1:3]) < _WINDOW:
    raise ValueError(
      f"ssim needs images of at least {_WINDOW} x {_WINDOW} pixels, got "
      f"{x.shape[1]} x {x.shape[2]}."
    )
  x, y = x / data_range, y / data_range
  # Variances do not depend on an offset, but are exacter around zero.
  offset = x.mean((1, 2), keepdims=True)
  x, y = x - offset, y - offset
  m_x, m_y = _blur(x), _blur(y)
  s_xx = _blur(x * x) - m_x * m_x
  s_yy = _blur(y * y) - m_y * m_y
  s_xy = _blur(x * y) - m_x * m_y
  m_x, m_y = m_x + offset, m_y + offset
  c_1, c_2 = _K_1**2, _K_2**2
  above = (2 * m_x * m_y + c_1) * (2 * s_xy + c_2)
  below = (m_x**2 + m_y**2 + c_1) * (s_xx + s_yy + c_2)
  return (above / below).mean((1, 2, 3))


def _blur(x: Array) -> Array:
  """Gaussian means over the windows inside x `[B, H, W, C]`."""
  offsets = np.arange(_WINDOW) - _WINDOW // 2
  taps = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
  taps /= taps.sum()
  for axis in (1, 2):
    valid = x.shape[axis] - _WINDOW + 1
    terms = [
      float(tap) * jax.lax.slice_in_dim(x, i, i + valid, axis=axis)
      for i, tap in enumerate(taps)
    ]
    x = functools.reduce(operator.add, terms)
  return x


def _check(
  name: str, x: Array, y: Array, data_range: float
) -> tuple[Array, Array]:
  if np.ndim(x) != 4 or np.shape(x) != np.shape(y):
    raise ValueError(
      f"{name} needs two batches of one shape [B, H, W, C], got {np.shape(x)} "
      f"and {np.shape(y)}."
    )
  if not data_range > 0:
    raise ValueError(f"{name} needs a positive data_range, got {data_range}.")
  return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
