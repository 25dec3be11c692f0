import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.score_classifier import WideResNet


def test_parameter_count():
  """The WRN-28-10 of the original code with its noise embedding."""
  x = jnp.zeros((1, 32, 32, 3))
  template = jax.eval_shape(WideResNet().init, jax.random.key(0), x, 1.0)
  count = sum(leaf.size for leaf in jax.tree.leaves(template))
  assert count == 38_913_242


def test_brightness_and_contrast_of_gray_data_do_not_matter():
  """Each image is standardised, once its channels have the same statistics."""
  network = WideResNet(1, 1, mean=(0.5,) * 3, std=(0.25,) * 3)
  x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
  v = jax.jit(network.init)(jax.random.key(1, impl="rbg"), x, 1.0)
  run = jax.jit(network.apply)
  want = run(v, x, 1.0)
  got = run(v, 0.3 * x + 0.2, 1.0)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert want.shape == (2, 10)
  assert not np.allclose(run(v, x, 3.0), want, atol=1e-3)


def test_wrong_channels_are_one_sentence():
  with pytest.raises(ValueError, match=r"needs images of 3 channels, got"):
    WideResNet().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), 1.0)
