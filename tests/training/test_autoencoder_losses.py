import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from random_openai import quick_jit

from jaxgen.nn.autoencoder import (
  AutoencoderKL,
  last_convolution,
  last_kernel,
)
from jaxgen.nn.posteriors import DiagonalGaussian
from jaxgen.training import autoencoder_losses as losses


def test_reconstruction_by_hand():
  x, x_hat = jnp.zeros((2, 1, 1, 2)), jnp.array([1.0, -3.0, 0.5, 0.5])
  errors = losses.reconstruction_errors(x, x_hat.reshape(x.shape))
  np.testing.assert_allclose(errors.ravel(), [1, 3, 0.5, 0.5])
  np.testing.assert_allclose(losses.mean_error(errors), 5 / 4)
  np.testing.assert_allclose(losses.laplace_nll(errors), 5 / 2)
  # The distance of an image is added to each of its values.
  distances = jnp.array([10.0, 20.0])
  errors = losses.reconstruction_errors(x, x_hat.reshape(x.shape), distances)
  np.testing.assert_allclose(errors.ravel(), [11, 13, 20.5, 20.5])


@pytest.mark.parametrize("logvar", [-0.5, 0.0, 1.2])
def test_nll_is_laplaces_up_to_a_constant(logvar):
  """exp(-nll) / 2 is a density of the error."""
  density = lambda e: (
    0.5
    * np.exp(-float(losses.laplace_nll(jnp.full((1, 1, 1, 1), abs(e)), logvar)))
  )
  # By symmetry; beyond 12 scales nothing is left.
  half = scipy.integrate.fixed_quad(
    np.vectorize(density), 0, 12 * np.exp(logvar), n=40
  )[0]
  assert 2 * half == pytest.approx(1, rel=1e-3)


def test_kl_loss_is_a_mean_over_examples():
  mean = jnp.stack([jnp.ones((2, 2, 1)), jnp.zeros((2, 2, 1))])
  posterior = DiagonalGaussian(mean, jnp.zeros_like(mean))
  np.testing.assert_allclose(losses.kl_loss(posterior, 1.0), 1)  # (2 + 0) / 2
  np.testing.assert_allclose(losses.kl_loss(posterior), 1e-6)


def test_adversarial_losses_by_hand():
  real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, -0.5, 1.0, 0.0])
  np.testing.assert_allclose(
    losses.hinge_d_loss(real, fake), (0.25 + (0 + 0.5 + 2 + 1) / 4) / 2
  )
  np.testing.assert_allclose(losses.generator_loss(fake), 2.5 / 4)
  # Undecided, D = 1/2 everywhere: Goodfellow et al.'s log 4, halved.
  even = losses.vanilla_d_loss(jnp.zeros(3), jnp.zeros(3))
  np.testing.assert_allclose(even, np.log(4) / 2, rtol=1e-6)
  d = lambda logits: 1 / (1 + np.exp(-np.float64(logits)))
  want = -(np.log(d(real)).mean() + np.log(1 - d(fake)).mean()) / 2
  np.testing.assert_allclose(losses.vanilla_d_loss(real, fake), want, rtol=1e-6)


def test_weight_waits_for_its_start():
  weights = [losses.delayed(0.5, step, 3) for step in (0, 2, 3, 9)]
  np.testing.assert_allclose(weights, [0, 0, 0.5, 0.5])
  np.testing.assert_allclose(losses.delayed(0.5, jnp.int32(0), 0), 0.5)


def weigh(kernel, nll, generator, **options):
  reconstruct = lambda k: jnp.array([[1.0, 2.0], [0.0, 1.0]]) @ k
  return losses.adaptive_weight(reconstruct, kernel, nll, generator, **options)


def test_adaptive_weight_by_hand():
  """x_hat = A k: gradients by k are A^T times those by x_hat."""
  kernel = jnp.array([[1.0], [1.0]])
  nll = lambda y: 3 * y[1, 0]  # A^T (0, 3) = (0, 3)
  generator = lambda y: 2 * y[0, 0]  # A^T (2, 0) = (2, 4)
  ratio = 3 / (np.sqrt(20) + 1e-4)
  np.testing.assert_allclose(weigh(kernel, nll, generator), ratio / 2, 1e-6)
  got = weigh(kernel, nll, generator, disc_weight=0.8)
  np.testing.assert_allclose(got, 0.8 * ratio, 1e-6)
  # A generator without gradient: 3 / 1e-4, but at most 1e4.
  flat = lambda y: 0 * y.sum()
  np.testing.assert_allclose(weigh(kernel, nll, flat, disc_weight=1.0), 1e4)
  np.testing.assert_allclose(weigh(kernel, flat, generator), 0)


def test_adaptive_weight_has_no_gradient():
  square = lambda y: (y**2).sum()
  f = lambda k: weigh(k, square, jnp.sum)
  np.testing.assert_array_equal(jax.grad(f)(jnp.ones((2, 1))), 0)


pyramid = jax.jit(losses.pyramid_distance, static_argnames="levels")


def blocks(size, length=32):
  """A checkerboard of squares of `size` pixels, of +-1."""
  i = np.arange(length) // size
  return jnp.asarray((-1.0) ** np.add.outer(i, i))[None, :, :, None]


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_every_scale_counts_once_in_the_pyramid(size):
  """Squares of 2^j pixels are details of level j and of no other."""
  x = jnp.zeros((1, 32, 32, 1))
  d = pyramid(x, x + 0.3 * blocks(size))
  np.testing.assert_allclose(d, [0.3], rtol=1e-6)
  small = pyramid(x, x + 0.3 * blocks(size), levels=0)
  np.testing.assert_allclose(small, [0.3], rtol=1e-6)


def test_pyramid_adds_the_scales_up():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((1, 32, 32, 1)))
  y = x + 0.25 + 0.5 * blocks(1) - 2 * blocks(8)
  d = pyramid(x, y)  # a constant is the coarsest level's
  np.testing.assert_allclose(d, [0.25 + 0.5 + 2], rtol=1e-5)
  per_image = pyramid(jnp.concatenate([x, x]), jnp.concatenate([x, y]))
  np.testing.assert_allclose(per_image, [0, 2.75], rtol=1e-5)


def test_bad_shapes_are_one_sentence():
  x = jnp.zeros((1, 24, 24, 3))
  with pytest.raises(ValueError, match=r"4 levels .* by 16, got \(1, 24"):
    losses.pyramid_distance(x, x)
  with pytest.raises(ValueError, match=r"shape of its image \(1, 24, 24, 3\)"):
    losses.reconstruction_errors(x, x[..., :1])


def test_adaptive_weight_costs_no_second_pass():
  """The weight adds less than the last convolution's and the losses' share."""
  network = AutoencoderKL(4, (1,), channels=32, num_res_blocks=1)
  z = jnp.ones((1, 16, 16, 4))
  init = lambda z: network.init(jax.random.key(0), z, method="decode")
  params = jax.eval_shape(init, z)["params"]
  nll, generator = lambda y: jnp.abs(y).sum(), lambda y: -y.mean()

  def loss(params, weighted):
    h = network.apply({"params": params}, z, method="decode_features")
    x_hat = lambda kernel: last_convolution(params, h, kernel)
    kernel, d = last_kernel(params), 1.0
    if weighted:
      d = losses.adaptive_weight(x_hat, kernel, nll, generator)
    return nll(x_hat(kernel)) + d * generator(x_hat(kernel))

  def flops(weighted):
    step = quick_jit(jax.grad(lambda params: loss(params, weighted)))
    return step.lower(params).compile().cost_analysis()["flops"]

  assert flops(True) < 1.05 * flops(False)
