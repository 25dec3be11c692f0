"""The variational bound: printed constants, exact KLs, a tight Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jaxgen.diffusion as jd
from jaxgen.diffusion.likelihood import (
  discretized_gaussian_log_likelihood,
  gaussian_kl,
  prior_bits_per_dim,
)

PROCESS = jd.DiscreteProcess.from_betas(jd.linear_betas())


@pytest.mark.parametrize(
  ("x", "mean", "log_scale", "expected"),
  [
    (0.0, 0.0, -4.6, -1.19228),
    (-1.0, -1.0, -4.6, -0.42807),
    (1.0, 0.98, -4.6, -2.90107),
    (0.1, 0.12, -3.0, -2.84896),
  ],
)
def test_decoder_values(x, mean, log_scale, expected):
  got = discretized_gaussian_log_likelihood(
    *(jnp.asarray(v, jnp.float32) for v in (x, mean, log_scale))
  )
  assert float(got) == pytest.approx(expected, abs=2e-4)


def test_decoder_bins_sum_to_one():
  x = jnp.arange(256) / 127.5 - 1
  for mean, log_scale in ((0.0, -2.0), (-0.97, -3.0), (0.5, 0.0)):
    logs = discretized_gaussian_log_likelihood(
      x, jnp.full(256, mean), jnp.asarray(log_scale)
    )
    assert float(jnp.exp(logs).sum()) == pytest.approx(1.0, abs=1e-4)


def test_decoder_is_close_to_the_exact_mass():
  x, mean, std = 0.2, 0.15, 0.1
  exact = norm.cdf(x + 1 / 255, mean, std) - norm.cdf(x - 1 / 255, mean, std)
  got = discretized_gaussian_log_likelihood(
    jnp.asarray(x), jnp.asarray(mean), jnp.log(std)
  )
  assert float(got) == pytest.approx(np.log(exact), abs=5e-3)


def test_kl_by_quadrature():
  z = np.linspace(-12, 12, 200_001)
  p, q = norm(0.3, 0.8), norm(-0.5, 1.7)
  integrand = p.pdf(z) * (p.logpdf(z) - q.logpdf(z))
  exact = np.trapezoid(integrand, z)
  got = gaussian_kl(0.3, jnp.log(0.8**2), -0.5, jnp.log(1.7**2))
  assert float(got) == pytest.approx(exact, rel=1e-5)
  assert gaussian_kl(0.3, jnp.log(2.0), 0.3, jnp.log(2.0)) == 0


@pytest.mark.parametrize(
  ("square", "expected"), [(0.0, 5.87e-10), (0.25, 7.28e-06), (1.0, 2.91e-05)]
)
def test_prior_term(square, expected):
  """DDPM section 4: L_T is about 1e-5 bits per dimension."""
  x_0 = jnp.full((1, 3), square**0.5)
  got = float(prior_bits_per_dim(PROCESS, x_0)[0])
  assert got == pytest.approx(expected, rel=0.01)


def test_bound_is_tight_for_a_gaussian():
  """With the exact reverse step of N(0, s^2), mean and variance, the bound is

  the entropy itself: -log2 of the mass in each 8-bit bin. DDPM's fixed
  variances lie above it.
  """
  std = 0.4
  x = std * jax.random.normal(jax.random.key(0), (4000, 1))
  x = jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5) / 127.5 - 1

  def exact(x_t, t):
    alpha, sigma = jd.marginal(PROCESS, t, x_t)
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    prediction = jd.from_x_0(PROCESS, x_t, t, gain * x_t)
    # Var(x_s | x_t) = posterior variance + (weight of x_0)^2 Var(x_0 | x_t).
    zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
    weight, small = jd.posterior(PROCESS, zero, one, t, t - 1)
    variance = small + weight**2 * gain * sigma**2 / alpha
    return prediction._replace(log_variance=jnp.log(variance))

  def fixed(x_t, t):
    return exact(x_t, t)._replace(log_variance=None)

  run = jax.jit(
    lambda f: jd.vlb_bits_per_dim(PROCESS, f, jax.random.key(1), x),
    static_argnums=0,
  )
  inside = np.abs(x[:, 0]) < 0.99
  upper, lower = norm.cdf((x + 1 / 255) / std), norm.cdf((x - 1 / 255) / std)
  true = -np.log2(upper - lower)[inside, 0].mean()
  tight, loose = run(exact), run(fixed)
  assert tight.terms.shape == (4000, 1000)
  # sigma_1 is near the bins' width: rounding to 8 bits costs the rest.
  assert true - 0.005 < float(tight.total[inside].mean()) < true + 0.06
  assert float(loose.total[inside].mean()) > true + 0.3
  np.testing.assert_allclose(
    tight.total, tight.prior + tight.terms.sum(1), rtol=1e-5
  )


def test_the_two_fixed_variances_share_the_decoder():
  """Published code puts beta-tilde_2 at t = 1 for both (DDPM's CIFAR-10)."""
  x = jnp.zeros((2, 4))
  network = lambda x_t, t: 0.1 * x_t
  small, large = (
    jd.vlb_bits_per_dim(
      PROCESS,
      jd.eps_denoiser(PROCESS, network),
      jax.random.key(0),
      x,
      variance,
    )
    for variance in (jd.FIXED_SMALL, jd.FIXED_LARGE)
  )
  np.testing.assert_allclose(small.terms[:, 0], large.terms[:, 0], rtol=1e-6)
  assert not np.allclose(small.terms[:, 1:], large.terms[:, 1:])


def test_learned_range_meets_both_fixed_choices():
  """v = 0 and v = 1 of improved DDPM's Eq. 15 are DDPM's two variances."""
  x_t = jnp.ones((2, 3))
  t, s = jnp.asarray(400), jnp.asarray(399)
  base = jd.from_eps(PROCESS, x_t, t, 0.2 * x_t)
  for v, beta in ((0.0, jd.FIXED_SMALL), (1.0, jd.FIXED_LARGE)):
    learned = base._replace(v=jnp.full_like(x_t, v))
    _, got = jd.p_mean_variance(PROCESS, learned, x_t, t, s)
    _, fixed = jd.p_mean_variance(PROCESS, base, x_t, t, s, beta)
    np.testing.assert_allclose(got, jnp.broadcast_to(fixed, got.shape))
  assert float(jnp.exp(fixed)) == pytest.approx(
    jd.linear_betas()[399], rel=1e-4
  )


def test_a_grid_that_does_not_reach_data():
  denoiser = jd.eps_denoiser(PROCESS, lambda x, t: x)
  with pytest.raises(ValueError, match="descend to 0"):
    jd.vlb_bits_per_dim(
      PROCESS,
      denoiser,
      jax.random.key(0),
      jnp.zeros((1, 2)),
      times=np.array([10, 5]),
    )
