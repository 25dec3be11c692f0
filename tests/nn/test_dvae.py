"""DALL-E's discrete autoencoder and its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.nn.dvae import (
  Decoder,
  Encoder,
  map_pixels,
  reconstruction,
  unmap_pixels,
)
from jaxgen.training.dvae_losses import (
  dvae_loss,
  gumbel_softmax,
  kl_to_uniform,
  logit_laplace_nll,
)
from jaxgen.training.optimizers import cosine_between


# Counted in the package DALL-E 0.1.
@pytest.mark.parametrize(
  ("network", "channels", "count"),
  [(Encoder(), 3, 53_786_240), (Decoder(), 8192, 43_829_766)],
)
def test_parameter_count(network, channels, count):
  x = jnp.zeros((1, 16, 16, channels))
  out, shapes = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
  want = (1, 2, 2, 8192) if channels == 3 else (1, 128, 128, 6)
  assert out.shape == want


def test_pixels():
  x = np.linspace(0, 1, 11, dtype=np.float32)
  np.testing.assert_allclose(map_pixels(x)[[0, -1]], [0.1, 0.9], rtol=1e-6)
  np.testing.assert_allclose(unmap_pixels(map_pixels(x)), x, atol=1e-6)
  np.testing.assert_array_equal(unmap_pixels(jnp.array([0.0, 1.0])), [0, 1])


def test_the_reconstruction_is_the_likeliest_image():
  """The logit's location: no other image has a smaller nll of the logit."""
  x = np.array([0.2, 0.7], np.float32).reshape(1, 1, 1, 2)
  mapped = map_pixels(x)
  mu = np.log(mapped / (1 - mapped))
  outputs = np.concatenate([mu, np.zeros_like(mu)], -1)
  np.testing.assert_allclose(reconstruction(outputs), x, atol=1e-6)


@pytest.mark.parametrize(("mu", "log_b"), [(0.3, -1.0), (-2.0, 0.2)])
def test_the_density_is_that_of_a_laplace_logit(mu, log_b):
  """It integrates to 1, and a change of variables gives it from Laplace's."""
  density = lambda x: np.exp(-logit_laplace_nll(x, mu, log_b))
  middles = (np.arange(200_000) + 0.5) / 200_000
  assert abs(density(middles).mean() - 1) < 1e-3
  x = np.array([0.11, 0.5, 0.83])
  laplace = stats.laplace(mu, np.exp(log_b)).pdf(np.log(x / (1 - x)))
  np.testing.assert_allclose(density(x), laplace / (x * (1 - x)), rtol=1e-5)


def test_kl_to_uniform():
  """log K for a sure answer, 0 for none, and entropy's closed form between."""
  np.testing.assert_allclose(kl_to_uniform(jnp.zeros((3, 8))), 0, atol=1e-6)
  sure = 1e3 * np.eye(8, dtype=np.float32)
  np.testing.assert_allclose(kl_to_uniform(sure), np.log(8), rtol=1e-6)
  p = np.array([0.5, 0.25, 0.25, 1e-30])
  want = np.log(4) - stats.entropy(p)
  np.testing.assert_allclose(kl_to_uniform(np.log(p)), want, rtol=1e-5)


def test_gumbel_softmax():
  """The largest entry is distributed as softmax(logits) at every tau."""
  logits = jnp.log(jnp.array([0.6, 0.3, 0.1]))
  many = jnp.broadcast_to(logits, (40_000, 3))
  y = gumbel_softmax(jax.random.key(0), many, 0.7)
  np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)
  share = np.bincount(y.argmax(-1), minlength=3) / len(y)
  np.testing.assert_allclose(share, [0.6, 0.3, 0.1], atol=0.01)
  cold = gumbel_softmax(jax.random.key(0), many[:100], 1e-3)
  assert (cold.max(-1) > 0.999).mean() > 0.98


def test_the_kls_weight_is_per_number():
  """In the paper's sizes the mean KL of a position weighs beta / 192."""
  x = np.full((1, 256, 256, 3), 0.5, np.float32)
  outputs = np.zeros((1, 256, 256, 6), np.float32)
  logits = np.zeros((1, 32, 32, 4), np.float32)
  logits[..., 0] = 2.0
  loss, metrics = dvae_loss(x, outputs, logits, 6.6)
  np.testing.assert_allclose(
    loss - metrics["nll"], 6.6 / 192 * metrics["kl"], rtol=1e-4
  )
  np.testing.assert_allclose(metrics["nll"], np.log(0.5), rtol=1e-5)
  with pytest.raises(ValueError, match=r"outputs \(1, 256, 256, 6\) for"):
    dvae_loss(x, outputs[..., :3], logits, 1.0)


def test_the_papers_schedules():
  beta = lambda step: cosine_between(step, 0.0, 6.6, 5000)
  np.testing.assert_allclose(
    [beta(0), beta(2500), beta(5000), beta(9000)], [0, 3.3, 6.6, 6.6], rtol=1e-5
  )
  tau = cosine_between(jnp.arange(0, 160_000, 10_000), 1.0, 1 / 16, 150_000)
  assert (np.diff(tau)[:15] < 0).all()
  np.testing.assert_allclose(tau[-1], 1 / 16)


def test_what_does_not_fit_is_refused():
  x = jnp.zeros((1, 20, 16, 3))
  with pytest.raises(ValueError, match=r"divisible by 8, got \(1, 20, 16, 3\)"):
    jax.eval_shape(Encoder(8).init, jax.random.key(0), x)
