"""Filtered up- and downsampling of feature maps (StyleGAN2, NCSN++).

A separable FIR filter h, its taps normalised to sum 1, is applied along height
and width. Plain resampling is the filter (1, 1): nearest neighbour upwards, the
mean of 2 x 2 pixels downwards. Outside the map are zeros.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxgen.nn.convolution import conv
from jaxgen.types import Array

PLAIN = (1, 1)


def upfirdn(
  x: Array,
  taps: Sequence[float],
  up: int = 1,
  down: int = 1,
  pad: tuple[int, int] = (0, 0),
) -> Array:
  """Upsamples by zeros, pads, filters and downsamples along height and width.

  Along each axis, with z[up m] = x[m] and zero elsewhere,
  y[n] = sum_k h[k] z[down n + K - 1 - k - pad[0]], k = 0, ..., K - 1: the
  operation `upfirdn2d` of StyleGAN2 (Karras et al. 2020) with the kernel
  h h^T.

  Args:
    x: `[B, H, W, C]`.
    taps: h, used as it is.
    up: factor of the upsampling; up - 1 zeros follow every pixel.
    down: factor of the downsampling.
    pad: zeros before and after; negative numbers crop.

  Returns:
    `[B, H', W', C]`, H' = (up H + pad[0] + pad[1] - K) // down + 1.

  Raises:
    ValueError: if the padded map is smaller than the filter.
  """
  for axis in (1, 2):
    x = _upfirdn_axis(x, taps, axis, up, down, pad)
  return x


def _upfirdn_axis(
  x: Array,
  taps: Sequence[float],
  axis: int,
  up: int,
  down: int,
  pad: tuple[int, int],
) -> Array:
  padding = [(0, 0, 0)] * x.ndim
  padding[axis] = (pad[0], pad[1] + up - 1, up - 1)
  z = jax.lax.pad(x, jnp.zeros((), x.dtype), padding)
  steps = (z.shape[axis] - len(taps)) // down  # between first and last output
  if steps < 0:
    raise ValueError(
      f"upfirdn needs at least {len(taps)} pixels after padding, got "
      f"{z.shape[axis]}."
    )
  # As slices, not as a convolution by channel, which XLA does slowly.
  terms = [
    jnp.asarray(h, x.dtype)
    * jax.lax.slice_in_dim(z, i, i + steps * down + 1, down, axis)
    for i, h in enumerate(reversed(taps))
  ]
  return functools.reduce(operator.add, terms)


def upsample(x: Array, taps: Sequence[float] = PLAIN) -> Array:
  """Doubles height and width: `[B, H, W, C]` -> `[B, 2 H, 2 W, C]`.

  Args:
    x: the feature maps.
    taps: of the filter, (1, 3, 3, 1) in NCSN++ (Song et al. 2021, App. H).
  """
  excess = len(taps) - 2
  pad = ((excess + 1) // 2 + 1, excess // 2)
  return upfirdn(x, _normalised(taps, 2.0), up=2, pad=pad)


def downsample(x: Array, taps: Sequence[float] = PLAIN) -> Array:
  """Halves height and width: `[B, H, W, C]` -> `[B, H / 2, W / 2, C]`.

  Args:
    x: the feature maps.
    taps: of the filter, (1, 3, 3, 1) in NCSN++ (Song et al. 2021, App. H).
  """
  excess = len(taps) - 2
  pad = ((excess + 1) // 2, excess // 2)
  return upfirdn(x, _normalised(taps), down=2, pad=pad)


def upsample_conv(x: Array, kernel: Array, taps: Sequence[float]) -> Array:
  """Doubles x, then convolves it, with zeros padded once before both.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[k, k, C, D]`, k odd.
    taps: of the filter.

  Returns:
    `[B, 2 H, 2 W, D]`.
  """
  excess = len(taps) - 2 + kernel.shape[0] - 1
  pad = ((excess + 1) // 2 + 1, excess // 2)
  y = upfirdn(x, _normalised(taps, 2.0), up=2, pad=pad)
  return conv(y, kernel, padding="VALID")


def downsample_conv(x: Array, kernel: Array, taps: Sequence[float]) -> Array:
  """Filters x, then convolves it with stride 2, with zeros padded once.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[k, k, C, D]`, k odd.
    taps: of the filter.

  Returns:
    `[B, H / 2, W / 2, D]`.
  """
  excess = len(taps) - 2 + kernel.shape[0] - 1
  pad = ((excess + 1) // 2, excess // 2)
  y = upfirdn(x, _normalised(taps), pad=pad)
  return conv(y, kernel, stride=2, padding="VALID")


def _normalised(taps: Sequence[float], gain: float = 1.0) -> list[float]:
  """Taps of sum `gain`: the zeros between pixels halve the mean per axis."""
  total = sum(taps)
  return [gain * h / total for h in taps]
