"""jax.random's own numbers, however they are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import random


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 2), (0,), (40, 999)])
def test_the_numbers_are_those_of_jax(shape):
  for seed in (0, 123456789):
    key = jax.random.key(seed)
    for draw in (random.normal, jax.jit(random.normal, static_argnums=1)):
      x = draw(key, shape)
      assert x.shape == shape
      assert x.dtype == jnp.float32
      # The bits are the same; erf_inv's last bit is the compiler's.
      expected = jax.random.normal(key, shape)
      np.testing.assert_allclose(x, expected, rtol=3e-6, atol=1e-7)
    np.testing.assert_array_equal(
      random.bernoulli(key, 0.3, shape), jax.random.bernoulli(key, 0.3, shape)
    )


def test_a_batch_of_keys_draws_as_each_key_alone():
  keys = jax.random.split(jax.random.key(3), 5)
  expected = [jax.random.normal(key, (4, 3)) for key in keys]
  for draw in (random.normal, jax.vmap(random.normal, (0, None))):
    np.testing.assert_allclose(draw(keys, (4, 3)), expected, rtol=3e-6)


def test_other_generators_and_dtypes_are_left_to_jax():
  for key in (jax.random.key(1, impl="rbg"), jax.random.PRNGKey(1)):
    np.testing.assert_array_equal(
      random.normal(key, (6,)), jax.random.normal(key, (6,))
    )
  key = jax.random.key(2)
  np.testing.assert_array_equal(
    random.normal(key, (6,), jnp.bfloat16),
    jax.random.normal(key, (6,), jnp.bfloat16),
  )


def test_keys_of_images_do_not_depend_on_where_a_batch_starts():
  key, words = jax.random.key(4), jax.random.key_data
  whole = random.image_keys(key, 0, 8)
  assert whole.shape == (8,)
  np.testing.assert_array_equal(
    words(random.image_keys(key, 5, 2)), words(whole[5:7])
  )
  np.testing.assert_array_equal(
    words(whole[3]), words(jax.random.fold_in(key, 3))
  )
  assert np.unique(words(whole), axis=0).shape == (8, 2)
