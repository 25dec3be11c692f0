from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.embeddings import sinusoidal_embedding
from jaxgen.nn.layers import (
  Conv,
  GroupNorm,
  depth_to_space,
  gelu,
  space_to_depth,
)


def test_gelu_is_x_times_the_normal_distribution():
  x = np.linspace(-8, 8, 1001)
  want = [v * NormalDist().cdf(v) for v in x]
  np.testing.assert_allclose(gelu(jnp.asarray(x, "f4")), want, atol=1e-6)
  half = gelu(jnp.asarray(x, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  rounded = np.asarray(jnp.asarray(x, jnp.bfloat16), float)
  want = [v * NormalDist().cdf(v) for v in rounded]
  got = np.asarray(half, float)
  np.testing.assert_allclose(got, want, rtol=2**-8, atol=1e-6)


def test_group_norm_by_hand():
  x = np.random.default_rng(0).normal(3.0, 2.0, (2, 4, 5, 6)).astype("f4")
  scale, bias = np.arange(1.0, 7.0), np.linspace(-1.0, 1.0, 6)
  got = GroupNorm(num_groups=3, epsilon=1e-5).apply(
    {"params": {"scale": jnp.array(scale), "bias": jnp.array(bias)}}, x
  )
  for b in range(2):
    for g in range(3):
      part = x[b, ..., 2 * g : 2 * g + 2].astype("f8")
      want = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
      want = want * scale[2 * g : 2 * g + 2] + bias[2 * g : 2 * g + 2]
      np.testing.assert_allclose(
        got[b, ..., 2 * g : 2 * g + 2], want, atol=1e-5
      )


def test_group_norm_of_bfloat16_keeps_float32_statistics():
  """A mean that bfloat16 sums could not hold."""
  noise = jax.random.normal(jax.random.key(0), (1, 32, 32, 32))
  x = (100.0 + noise).astype(jnp.bfloat16)
  norm = GroupNorm(dtype=jnp.bfloat16)
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  assert y.dtype == jnp.bfloat16
  y = y.astype(jnp.float32)
  assert abs(float(y.mean())) < 1e-2
  assert abs(float(y.std()) - 1.0) < 1e-2


def test_group_norm_far_from_zero():
  noise = jax.random.normal(jax.random.key(0), (1, 16, 16, 32))
  norm = GroupNorm()
  v = norm.init(jax.random.key(0), noise)
  near, far = norm.apply(v, noise), norm.apply(v, noise + 1000.0)
  np.testing.assert_allclose(near, far, atol=2e-3)


def test_group_norm_names_what_does_not_divide():
  with pytest.raises(ValueError, match="multiple of 32 channels, got 48"):
    GroupNorm().init(jax.random.key(0), jnp.zeros((1, 2, 2, 48)))


def test_strided_conv_pads_bottom_and_right():
  """TensorFlow's 'SAME': the window of output i starts at input 2 i."""
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  conv = Conv(1, stride=2)
  kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
  y = conv.apply({"params": {"kernel": kernel, "bias": jnp.zeros(1)}}, x)
  np.testing.assert_array_equal(y[0, ..., 0], x[0, ::2, ::2, 0])


def test_space_to_depth_round_trip():
  x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
  y = space_to_depth(x, 4)
  assert y.shape == (2, 2, 3, 48)
  np.testing.assert_array_equal(y[0, 1, 2].reshape(4, 4, 3), x[0, 4:8, 8:12])
  np.testing.assert_array_equal(depth_to_space(y, 4), x)


def test_sinusoidal_embedding_of_small_dim():
  """dim 4: h = 2; the frequencies are 1 and, at the end, 1e-4 or 1e-2."""
  t = jnp.array([0.0, 1.0, 50.0])
  sin, cos = np.sin, np.cos
  ddpm = [[sin(s), sin(1e-4 * s), cos(s), cos(1e-4 * s)] for s in (0, 1, 50)]
  np.testing.assert_allclose(sinusoidal_embedding(t, 4), ddpm, atol=1e-5)
  openai = [[cos(s), cos(1e-2 * s), sin(s), sin(1e-2 * s)] for s in (0, 1, 50)]
  np.testing.assert_allclose(
    sinusoidal_embedding(t, 4, cos_first=True, endpoint=False),
    openai,
    atol=1e-5,
  )
  assert not jnp.any(sinusoidal_embedding(t, 5)[:, 4])
  with pytest.raises(ValueError, match="dim >= 4, got 3"):
    sinusoidal_embedding(t, 3)
