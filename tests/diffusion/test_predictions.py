"""Parameterisations: formulas of the papers, round trips, bad shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

PROCESSES = {
  "ddpm": (jd.DiscreteProcess.from_betas(jd.linear_betas()), 400),
  "smld": (
    jd.DiscreteProcess.from_sigmas(jd.geometric_sigmas(50, 9.0, 0.1)[::-1]),
    20,
  ),
  "vp": (jd.VPSDE(), 0.4),
  "subvp": (jd.SubVPSDE(), 0.4),
  "ve": (jd.VESDE(), 0.6),
}


def truth(name):
  """(process, t, x_t, Prediction of the x_0 and eps that made x_t)."""
  process, t = PROCESSES[name]
  t = jnp.asarray(t)
  x_0 = jax.random.normal(jax.random.key(0), (4, 6))
  x_t, eps = jd.q_sample(process, jax.random.key(1), x_0, t)
  return process, t, x_t, jd.Prediction(x_0, eps)


@pytest.mark.parametrize("name", PROCESSES)
def test_every_target_recovers_x_0_and_eps(name):
  process, t, x_t, true = truth(name)
  velocity = jd.velocity_of(process, true, t)
  score = jd.score_of(process, true, t)
  for prediction in (
    jd.from_eps(process, x_t, t, true.eps),
    jd.from_x_0(process, x_t, t, true.x_0),
    jd.from_velocity(process, x_t, t, velocity),
    jd.from_score(process, x_t, t, score),
  ):
    np.testing.assert_allclose(prediction.x_0, true.x_0, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(prediction.eps, true.eps, rtol=1e-4, atol=2e-4)


def test_mean_recovers_x_0_at_every_step():
  process = PROCESSES["ddpm"][0]
  t = jnp.array([1, 2, 10, 300, 1000])
  x_0 = jax.random.normal(jax.random.key(0), (5, 8))
  x_t, _ = jd.q_sample(process, jax.random.key(1), x_0, t)
  mean, _ = jd.posterior(process, x_t, x_0, t, t - 1)
  prediction = jd.from_mean(process, x_t, t, mean)
  # At t = 1000 the mean holds 1e-4 of x_0: float32 leaves three digits.
  np.testing.assert_allclose(prediction.x_0, x_0, rtol=0.02, atol=0.02)
  np.testing.assert_allclose(prediction.x_0[0], x_0[0], rtol=1e-5)


def test_formulas_of_the_papers():
  """x_0 of DDPM's code, and velocity as an angle (Salimans & Ho, App. D)."""
  process, t, x_t, true = truth("ddpm")
  abar = np.cumprod(1 - jd.linear_betas())[399]
  np.testing.assert_allclose(
    jd.from_eps(process, x_t, t, true.eps).x_0,
    np.sqrt(1 / abar) * x_t - np.sqrt(1 / abar - 1) * true.eps,
    rtol=1e-4,
    atol=1e-4,
  )
  phi = np.arctan2(np.sqrt(1 - abar), np.sqrt(abar))
  np.testing.assert_allclose(
    jd.velocity_of(process, true, t),
    np.cos(phi) * true.eps - np.sin(phi) * true.x_0,
    rtol=1e-5,
    atol=1e-5,
  )


def test_score_of_a_gaussian():
  """For x_0 ~ N(0, I) under VP, q(x_t) = N(0, I) and the score is -x."""
  process, t = jd.VPSDE(), jnp.asarray(0.3)
  x_t = jax.random.normal(jax.random.key(0), (4, 2))
  prediction = jd.from_score(process, x_t, t, -x_t)
  # E[x_0 | x_t] = alpha x_t for a unit Gaussian.
  np.testing.assert_allclose(
    prediction.x_0, process.alpha(t) * x_t, rtol=1e-4, atol=1e-6
  )


def test_clipping_keeps_the_prediction_consistent():
  process, t, x_t, _ = truth("ddpm")
  denoiser = jd.clip_x_0(process, jd.eps_denoiser(process, lambda x, t: 2 * x))
  prediction = denoiser(x_t, t)
  assert float(jnp.abs(prediction.x_0).max()) <= 1.0
  alpha, sigma = jd.marginal(process, t, x_t)
  np.testing.assert_allclose(
    alpha * prediction.x_0 + sigma * prediction.eps, x_t, rtol=1e-5, atol=1e-6
  )


def test_a_scalar_t_reaches_the_network_as_a_batch():
  process = PROCESSES["ddpm"][0]
  seen = []

  def network(x, t):
    seen.append(t.shape)
    return x

  jd.eps_denoiser(process, network)(jnp.zeros((3, 2)), jnp.asarray(5))
  jd.eps_denoiser(process, network)(jnp.zeros((3, 2)), jnp.array([5, 6, 7]))
  assert seen == [(3,), (3,)]


def test_a_network_of_the_wrong_shape():
  process = PROCESSES["ddpm"][0]
  denoiser = jd.eps_denoiser(process, lambda x, t: x[..., :1])
  with pytest.raises(ValueError, match="network's output must have x_t's"):
    denoiser(jnp.zeros((3, 2)), jnp.asarray(5))


def test_a_clip_range_of_no_width():
  with pytest.raises(ValueError, match="low < high"):
    jd.clip_x_0(jd.VPSDE(), None, 1.0, -1.0)
