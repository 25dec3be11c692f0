import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.attention import attention


def draw(*shape, seed=0, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def inputs(dtype=jnp.float32):
  return (draw(2, n, 3, 8, seed=n, dtype=dtype) for n in (5, 7, 7))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_is_that_of_jax(dtype):
  """With bias and mask, and its gradients, to the dtype's precision."""
  q, k, _ = inputs(dtype)
  v = draw(2, 7, 3, 8, seed=9, dtype=dtype)
  bias = 3 * draw(1, 3, 5, 7, seed=1)
  mask = draw(2, 1, 5, 7, seed=2) > -0.5

  def run(f):
    loss = lambda *args: (f(*args, bias=bias, mask=mask).mean(-1) ** 2).sum()
    both = lambda *args: (f(*args, bias=bias, mask=mask), jax.grad(loss)(*args))
    return jax.jit(both)(q, k, v)

  ours, theirs = run(attention), run(jax.nn.dot_product_attention)
  tolerance = 2e-6 if dtype == jnp.float32 else 2e-2
  for a, b in zip(ours, theirs, strict=True):
    assert a.dtype == dtype
    a, b = np.float32(a), np.float32(b)
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def test_attention_to_large_logits_is_finite():
  q, k, v = inputs()
  one_hot = attention(1e4 * q, k, v)
  best = jnp.einsum("bthd,bshd->bhts", q, k).argmax(-1)
  want = jax.vmap(jax.vmap(lambda v, i: v[i], 1, 1))(v, best.swapaxes(1, 2))
  np.testing.assert_allclose(one_hot, want, atol=1e-6)


def test_chunks_take_no_mask():
  q, k, v = inputs()
  with pytest.raises(ValueError, match="takes no bias or mask"):
    attention(q, k, v, mask=jnp.ones((5, 7), bool), query_chunk=2)
