"""Convolutions of feature maps, and a cheaper form of one of them for CPUs."""

import jax
import jax.numpy as jnp

from jaxgen.types import Array

Padding = str | tuple[tuple[int, int], tuple[int, int]]


def conv(
  x: Array, kernel: Array, stride: int = 1, padding: Padding = "SAME"
) -> Array:
  """Convolution of x `[B, H, W, C]` by an HWIO kernel.

  'SAME' is TensorFlow's: with stride 2, a 3 x 3 kernel and an even size it
  pads only bottom and right.
  """
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def upsample_conv(x: Array, kernel: Array) -> Array:
  """Doubles x by nearest neighbour, then convolves it, 'SAME'.

  On a CPU, where multiplications are what costs, `upsample_conv_by_phase`
  does it with 16 instead of 36 of them per pixel of x and pair of channels.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[3, 3, C, D]`.

  Returns:
    `[B, 2 H, 2 W, D]`.
  """
  if jax.default_backend() == "cpu":
    return upsample_conv_by_phase(x, kernel)
  return conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


def upsample_conv_by_phase(x: Array, kernel: Array) -> Array:
  """`upsample_conv` as four 2 x 2 convolutions of x itself.

  Along one axis, the three taps (a, b, c) around an even output 2 i see only
  x[i - 1], x[i], x[i], and around an odd one x[i], x[i], x[i + 1]: the even
  outputs are x convolved by (a, b + c), the odd ones by (a + b, c).
  """
  sides = ((1, 0), (0, 1))  # where an even and an odd output need a zero
  rows = [
    jnp.stack(
      [
        conv(x, k, padding=(row_side, column_side))
        for k, column_side in zip(_fold(k_row, 1), sides, strict=True)
      ],
      axis=3,
    )
    for k_row, row_side in zip(_fold(kernel, 0), sides, strict=True)
  ]
  b, h, w, _ = x.shape
  return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def _fold(kernel: Array, axis: int) -> tuple[Array, Array]:
  """The taps (a, b + c) and (a + b, c) of a kernel (a, b, c)."""
  a, b, c = jnp.split(kernel, 3, axis)
  even = jnp.concatenate([a, b + c], axis)
  odd = jnp.concatenate([a + b, c], axis)
  return even, odd
