import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.quantizers import (
  VectorQuantizer,
  codebook_usage,
  nearest,
)

# Two latents, (1, 0) and (0, 3), and three codes, the nearest being 1 and 2.
Z = jnp.array([[1.0, 0.0], [0.0, 3.0]])
CODES = jnp.array([[9.0, 9.0], [2.0, 0.0], [0.0, 1.0]])


def quantize(z, codes, legacy=True):
  quantizer = VectorQuantizer(*codes.shape, legacy=legacy)
  return quantizer.apply({"params": {"embedding": codes}}, z)


def test_codes_by_hand():
  z_q, indices, _ = quantize(Z, CODES)
  np.testing.assert_array_equal(indices, [1, 2])
  np.testing.assert_array_equal(z_q, [[2, 0], [0, 1]])


@pytest.mark.parametrize("legacy", [True, False])
def test_loss_and_its_gradients_by_hand(legacy):
  """Differences e - z are (1, 0) and (0, -2): mean square 5 / 4."""
  loss = lambda z, codes: quantize(z, codes, legacy).loss
  value, (by_z, by_codes) = jax.value_and_grad(loss, (0, 1))(Z, CODES)
  np.testing.assert_allclose(value, 1.25 * 5 / 4)
  # 2 (z - e) / 4 and its opposite; beta is 1 / 4.
  towards_code = np.array([[-0.5, 0], [0, 1.0]])
  on_z, on_codes = (1, 0.25) if legacy else (0.25, 1)
  np.testing.assert_allclose(by_z, on_z * towards_code)
  np.testing.assert_allclose(by_codes[1:], -on_codes * towards_code)
  np.testing.assert_array_equal(by_codes[0], 0)  # chosen by nobody


def test_gradient_goes_straight_through():
  slope = jnp.array([[3.0, 5.0], [7.0, 11.0]])
  f = lambda z, codes: (quantize(z, codes).z_q * slope).sum()
  by_z, by_codes = jax.grad(f, (0, 1))(Z, CODES)
  np.testing.assert_array_equal(by_z, slope)
  np.testing.assert_array_equal(by_codes, 0)


def test_nearest_is_that_of_all_distances():
  rng = np.random.default_rng(0)
  z, codes = rng.standard_normal((3, 5, 4, 6)), rng.standard_normal((40, 6))
  distances = np.linalg.norm(z[..., None, :] - codes, axis=-1)
  got = nearest(jnp.float32(z), jnp.float32(codes))
  np.testing.assert_array_equal(got, distances.argmin(-1))
  twice = jnp.concatenate([CODES, CODES])
  np.testing.assert_array_equal(nearest(Z, twice), [1, 2])


def test_codebook_starts_uniform():
  z = jnp.zeros((1, 4))
  params = VectorQuantizer(200, 4).init(jax.random.key(0), z)["params"]
  book = params["embedding"]
  assert book.shape == (200, 4)
  assert np.abs(book).max() <= 1 / 200
  assert np.std(book) == pytest.approx(1 / 200 / np.sqrt(3), rel=0.1)


def test_usage_by_hand():
  usage = jax.jit(codebook_usage, static_argnums=1)
  used, perplexity = usage(jnp.arange(8).reshape(2, 4), 8)
  np.testing.assert_allclose([used, perplexity], [1, 8], rtol=1e-6)
  used, perplexity = usage(jnp.full((2, 4), 3), 8)
  np.testing.assert_allclose([used, perplexity], [1 / 8, 1], rtol=1e-6)
  used, perplexity = usage(jnp.array([[0, 0, 0, 6]] * 2), 8)
  want = 4 / 3**0.75  # (3/4)^(-3/4) (1/4)^(-1/4)
  np.testing.assert_allclose([used, perplexity], [1 / 4, want], rtol=1e-6)


def test_half_precision_is_quantised_in_float32():
  z_q, _, loss = quantize(Z.astype(jnp.bfloat16), CODES)
  assert z_q.dtype == loss.dtype == jnp.float32


def test_other_channels_are_one_sentence():
  with pytest.raises(ValueError, match=r"codes of 2 channels .* got \(2, 3\)"):
    quantize(jnp.zeros((2, 3)), CODES)
