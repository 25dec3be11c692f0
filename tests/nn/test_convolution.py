import jax
import numpy as np
import pytest

from jaxgen.nn.convolution import conv, upsample_conv_by_phase


def upsampled(x, kernel):
  """The definition: repeat every pixel, then convolve."""
  return conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


@pytest.mark.parametrize("shape", [(2, 4, 4, 8), (1, 1, 3, 5)])
def test_phases_equal_upsampling_in_values_and_gradients(shape):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], shape)
  kernel = jax.random.normal(keys[1], (3, 3, shape[-1], 6))
  want, want_vjp = jax.vjp(upsampled, x, kernel)
  got, got_vjp = jax.vjp(upsample_conv_by_phase, x, kernel)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
  cotangent = jax.random.normal(keys[2], want.shape)
  for ours, plain in zip(got_vjp(cotangent), want_vjp(cotangent), strict=True):
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-4)
