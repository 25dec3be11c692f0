import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.inception import Inception, average_pool, halving_pool


def shapes(size=299):
  x = jnp.zeros((1, size, size, 3))
  return jax.eval_shape(Inception().init, jax.random.key(0), x)["params"]


def test_parameter_count():
  # That of the PyTorch port's network, statistics included.
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes())) == 23_885_392


def test_shapes_of_the_taps():
  x = jnp.zeros((2, 299, 299, 3), jnp.bfloat16)
  taps, _ = jax.eval_shape(
    Inception(jnp.bfloat16).init_with_output, jax.random.key(0), x
  )
  assert taps.pool.shape == (2, 2048)
  assert taps.spatial.shape == (2, 17, 17, 7)  # 2023 numbers, as ADM has it
  assert taps.logits.shape == taps.logits_unbiased.shape == (2, 1008)
  assert [getattr(taps, f"mean_{c}").shape[1] for c in (64, 192, 768)] == [
    *(64, 192, 768)
  ]
  assert {tap.dtype for tap in taps} == {jnp.dtype("float32")}


def test_average_pool_does_not_count_the_padding():
  x = jnp.arange(20.0).reshape(1, 4, 5, 1)
  pooled = average_pool(x)[0, :, :, 0]
  np.testing.assert_allclose(average_pool(jnp.ones_like(x)), 1.0)
  assert pooled[0, 0] == (0 + 1 + 5 + 6) / 4
  assert pooled[3, 2] == (11 + 12 + 13 + 16 + 17 + 18) / 6
  assert pooled[1, 1] == 6


def test_halving_pool_keeps_within_the_image():
  x = -jnp.arange(1.0, 36.0).reshape(1, 5, 7, 1)
  np.testing.assert_array_equal(
    halving_pool(x)[0, :, :, 0], [[-1, -3, -5], [-15, -17, -19]]
  )


@pytest.mark.parametrize(
  "shape", [(75, 75, 3), (1, 75, 75, 1), (1, 74, 75, 3), (1, 75, 74, 3)]
)
def test_bad_input_is_one_sentence(shape):
  with pytest.raises(ValueError, match=r"Inception needs x of shape .*75, got"):
    Inception().init(jax.random.key(0), jnp.zeros(shape))


def test_the_smallest_input():
  taps, _ = jax.eval_shape(
    Inception().init_with_output, jax.random.key(0), jnp.zeros((1, 75, 75, 3))
  )
  assert taps.spatial.shape == (1, 3, 3, 7)
