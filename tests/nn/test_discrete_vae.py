"""BEiT's own discrete autoencoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.discrete_vae import Decoder, Encoder, Upsample
from jaxgen.training.dvae_losses import discrete_vae_loss


# Counted in the released code, the codebook with the decoder.
@pytest.mark.parametrize(
  ("network", "shape", "out", "count"),
  [
    (Encoder(), (1, 112, 112, 3), (1, 14, 14, 8192), 7_953_408),
    (Decoder(), (1, 14, 14, 8192), (1, 112, 112, 3), 7_933_699 + 4_194_304),
  ],
)
def test_parameter_count(network, shape, out, count):
  init = lambda key: network.init_with_output(key, jnp.zeros(shape))
  found, params = jax.eval_shape(init, jax.random.key(0))
  assert found.shape == out
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_transposed_convolution():
  """One pixel spreads W over the 4 x 4 around its 2 x 2 pixels."""
  kernel = np.arange(16, dtype=np.float32).reshape(4, 4, 1, 1)
  params = {"kernel": kernel, "bias": np.zeros(1, np.float32)}
  x = np.zeros((1, 3, 3, 1), np.float32)
  x[0, 1, 1] = 1
  y = Upsample(1).apply({"params": params}, x)
  want = np.pad(kernel[..., 0, 0], 1)
  np.testing.assert_array_equal(y[0, ..., 0], want)


def test_the_loss_by_hand():
  """Differences 0.5 and 3; two positions that are sure of one of 4 tokens."""
  x = jnp.zeros((1, 1, 2, 1))
  x_hat = jnp.array([0.5, 3.0]).reshape(x.shape)
  logits = 1e3 * jnp.eye(4)[None, None, :2]
  loss, parts = discrete_vae_loss(x, x_hat, logits, 0.1)
  np.testing.assert_allclose(parts["error"], (0.25 + 9) / 2)
  np.testing.assert_allclose(loss, 4.625 + 0.1 * 2 * np.log(4), rtol=1e-6)
  loss, _ = discrete_vae_loss(x, x_hat, logits, 0.0, smooth_l1=True)
  np.testing.assert_allclose(loss, (0.125 + 2.5) / 2)
  with pytest.raises(ValueError, match=r"shape \(1, 1, 2, 1\), got \(2, 1\)"):
    discrete_vae_loss(x, x_hat[0, 0], logits)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r"divisible by 4, got \(1, 6, 4, 3\)"):
    jax.eval_shape(
      Encoder(8, 2).init, jax.random.key(0), jnp.zeros((1, 6, 4, 3))
    )
