"""The posterior against three papers, and the transition between any times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

LINEAR = jd.linear_betas()
PROCESS = jd.DiscreteProcess.from_betas(LINEAR)
SDES = (jd.VPSDE(), jd.SubVPSDE(), jd.VESDE())


def column(values):
  return jnp.asarray(values, jnp.float32)[:, None]


def test_q_sample_is_the_closed_form():
  x_0 = jax.random.normal(jax.random.key(1), (5, 3))
  t = jnp.array([1, 10, 100, 500, 1000])
  x_t, eps = jd.q_sample(PROCESS, jax.random.key(0), x_0, t)
  abar = np.cumprod(1 - LINEAR)[np.asarray(t) - 1][:, None]
  np.testing.assert_allclose(
    x_t, np.sqrt(abar) * x_0 + np.sqrt(1 - abar) * eps, rtol=2e-5, atol=1e-6
  )


@pytest.mark.parametrize("make", (jd.linear_betas, jd.cosine_betas))
@pytest.mark.parametrize("T", (1000, 4000))
def test_transition_recovers_every_beta(make, T):
  betas = make(T)
  process = jd.DiscreteProcess.from_betas(betas)
  t = jnp.arange(1, T + 1)
  r, b = jd.transition(process, t, t - 1, jnp.zeros((T, 1)))
  np.testing.assert_allclose(r[:, 0], np.sqrt(1 - betas), rtol=2e-6)
  np.testing.assert_allclose(b[:, 0], betas, rtol=2e-6)


def test_posterior_is_ddpm_eq_7():
  betas, alphas = LINEAR, 1 - LINEAR
  abar = np.cumprod(alphas)
  abar_prev = np.append(1.0, abar[:-1])
  c_1 = betas * np.sqrt(abar_prev) / (1 - abar)
  c_2 = (1 - abar_prev) * np.sqrt(alphas) / (1 - abar)
  beta_tilde = betas * (1 - abar_prev) / (1 - abar)
  t = jnp.arange(1, 1001)
  x_0 = jax.random.normal(jax.random.key(0), (1000, 1))
  x_t = jax.random.normal(jax.random.key(1), (1000, 1))
  mean, variance = jd.posterior(PROCESS, x_t, x_0, t, t - 1)
  expected = c_1[:, None] * x_0 + c_2[:, None] * x_t
  np.testing.assert_allclose(mean, expected, rtol=2e-6, atol=1e-6)
  np.testing.assert_allclose(variance[:, 0], beta_tilde, rtol=2e-6)
  # beta-tilde as the paper's table gives it (code index 2, 10, 500, 999).
  np.testing.assert_allclose(
    variance[jnp.array([1, 2, 10, 500, 999]), 0],
    [
      5.453187661e-05,
      8.548911523e-05,
      2.584636204e-04,
      0.01005133578,
      0.01999998353,
    ],
    rtol=2e-6,
  )
  assert variance[0, 0] == 0.0


def test_posterior_strided_is_improved_ddpm():
  """beta'_t = 1 - abar_t / abar_s over a respaced grid, then DDPM's Eq. 7."""
  times = jd.respaced_times(1000, "25")
  abar = np.append(1.0, np.cumprod(1 - LINEAR))
  t, s = times[:-1], times[1:]
  beta = 1 - abar[t] / abar[s]
  x_0 = jax.random.normal(jax.random.key(0), (25, 1))
  x_t = jax.random.normal(jax.random.key(1), (25, 1))
  mean, variance = jd.posterior(PROCESS, x_t, x_0, t, s)
  c_1 = beta * np.sqrt(abar[s]) / (1 - abar[t])
  c_2 = (1 - abar[s]) * np.sqrt(1 - beta) / (1 - abar[t])
  np.testing.assert_allclose(
    mean, c_1[:, None] * x_0 + c_2[:, None] * x_t, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    variance[:, 0], beta * (1 - abar[s]) / (1 - abar[t]), rtol=1e-4
  )


def test_posterior_without_scaling_is_score_sdes_ancestral_step():
  """VE (Song et al. 2021, Eq. 47) with s the score of x_t given x_0."""
  sigmas = jd.geometric_sigmas(100, 50.0, 0.01)[::-1]
  process = jd.DiscreteProcess.from_sigmas(sigmas)
  t = np.arange(2, 101)
  x_0 = jax.random.normal(jax.random.key(0), (99, 1))
  x_t = 10 * jax.random.normal(jax.random.key(1), (99, 1))
  mean, variance = jd.posterior(process, x_t, x_0, t, t - 1)
  now, before = sigmas[t - 1][:, None], sigmas[t - 2][:, None]
  score = (x_0 - x_t) / now**2
  np.testing.assert_allclose(
    mean, x_t + (now**2 - before**2) * score, rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    variance, before**2 * (now**2 - before**2) / now**2, rtol=1e-4
  )


@pytest.mark.parametrize("process", SDES, ids=lambda p: type(p).__name__)
def test_transitions_compose(process):
  """N(r_ts r_su x, ...) through s equals going from u to t at once."""
  x = jnp.zeros((1, 1))
  u, s, t = jnp.asarray(0.2), jnp.asarray(0.5), jnp.asarray(0.9)
  r_ts, b_ts = jd.transition(process, t, s, x)
  r_su, b_su = jd.transition(process, s, u, x)
  r_tu, b_tu = jd.transition(process, t, u, x)
  assert float(r_ts * r_su) == pytest.approx(float(r_tu), rel=1e-5)
  assert float(r_ts**2 * b_su + b_ts) == pytest.approx(float(b_tu), rel=1e-5)


@pytest.mark.parametrize("process", SDES, ids=lambda p: type(p).__name__)
def test_posterior_is_bayes_rule(process):
  """Precision-weighted product of q(x_t | x_s) and q(x_s | x_0)."""
  s, t = jnp.asarray(0.3), jnp.asarray(0.6)
  x_0, x_t = jnp.array([[0.7]]), jnp.array([[-0.4]])
  r, b = (np.float64(a) for a in jd.transition(process, t, s, x_0))
  alpha, sigma = (np.float64(a) for a in jd.marginal(process, s, x_0))
  precision = r**2 / b + 1 / sigma**2
  expected = (r * -0.4 / b + alpha * 0.7 / sigma**2) / precision
  mean, variance = jd.posterior(process, x_t, x_0, t, s)
  assert float(variance) == pytest.approx(1 / precision, rel=1e-4)
  assert float(mean[0, 0]) == pytest.approx(float(expected), rel=1e-4)


def test_shapes_must_agree():
  with pytest.raises(ValueError, match="one shape"):
    jd.posterior(PROCESS, jnp.zeros((2, 3)), jnp.zeros((2, 4)), 5, 4)
