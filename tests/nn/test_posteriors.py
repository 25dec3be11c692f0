import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jaxgen.nn import posteriors
from jaxgen.nn.posteriors import DiagonalGaussian


def of_one(mean, logvar):
  to_array = lambda x: jnp.full((1, 1, 1, 1), x)
  return DiagonalGaussian(to_array(mean), to_array(logvar))


@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.5), (-2.0, 1.0), (0.1, 2.0)])
def test_kl_is_the_integral(mean, std):
  q, p = scipy.stats.norm(mean, std), scipy.stats.norm()
  integrand = lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z))
  want, _ = scipy.integrate.quad(integrand, mean - 12 * std, mean + 12 * std)
  got = posteriors.kl(of_one(mean, 2 * np.log(std)))
  np.testing.assert_allclose(got, [want], rtol=1e-5)


def test_kl_sums_over_an_example():
  shape = (3, 2, 4, 5)
  posterior = DiagonalGaussian(jnp.ones(shape), jnp.zeros(shape))
  np.testing.assert_allclose(posteriors.kl(posterior), [20.0] * 3)  # 40 / 2
  standard = posteriors.from_moments(jnp.zeros((3, 2, 4, 10)))
  np.testing.assert_array_equal(posteriors.kl(standard), np.zeros(3))


def test_samples_have_the_moments():
  shape = (1, 100, 100, 2)
  mean = jnp.broadcast_to(jnp.array([3.0, -1.0]), shape)
  logvar = jnp.broadcast_to(jnp.log(jnp.array([0.25, 4.0])), shape)
  posterior = DiagonalGaussian(mean, logvar)
  z = jax.jit(posteriors.sample)(jax.random.key(0), posterior)
  np.testing.assert_allclose(z.mean((0, 1, 2)), [3, -1], atol=4 * 0.02)
  np.testing.assert_allclose(z.std((0, 1, 2)), [0.5, 2], rtol=0.03)
  np.testing.assert_array_equal(posteriors.mode(posterior), mean)


def test_log_variances_are_clamped():
  def read(moments):
    return posteriors.from_moments(moments.reshape(1, 1, 1, 2)).logvar.sum()

  values, slopes = zip(
    *(
      jax.value_and_grad(read)(jnp.array([99.0, x])) for x in (-40.0, 3.0, 30.0)
    ),
    strict=True,
  )
  np.testing.assert_array_equal(values, [-30, 3, 20])
  np.testing.assert_array_equal(np.stack(slopes)[:, 1], [0, 1, 0])
  np.testing.assert_array_equal(np.stack(slopes)[:, 0], 0)
