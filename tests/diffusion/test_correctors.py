"""Langevin dynamics and predictor-corrector sampling, piece by piece."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

sys.path.insert(0, str(Path(__file__).parents[1]))
import oracles

TIMES = {"linear": 400, "smld": 700, "vp": 0.4, "subvp": 0.4, "ve": 0.6}


@pytest.mark.parametrize("name", TIMES)
def test_annealed_langevin_has_its_stationary_variance(name):
  """x - h x / v + sqrt(2 h) z keeps the variance v / (1 - h / (2 v))."""
  process, t = oracles.PROCESSES[name], jnp.asarray(TIMES[name])
  denoiser = oracles.denoiser(process, oracles.GAUSSIAN, "x_0")
  mean, cov = oracles.moments(oracles.GAUSSIAN, process, t)
  sigma = float(process.sigma(t))
  snr = 0.5
  if isinstance(process.T, int):
    kept = float(process.alpha(t) / process.alpha(t - 1)) ** 2
  else:
    kept = float(process.alpha(t) / process.alpha(t - 1e-3)) ** 2
  h = 2 * kept * (snr * sigma) ** 2
  v = cov[0, 0]
  corrector = jd.annealed_langevin(process, denoiser, snr)
  x = mean[0] + 3 * np.sqrt(v) * jnp.ones((20_000, 1))

  @jax.jit
  def run(x):
    body = lambda x, key: (corrector(key, x, t), None)
    return jax.lax.scan(body, x, jax.random.split(jax.random.key(0), 60))[0]

  out = np.asarray(run(x), np.float64)
  assert out.mean() == pytest.approx(mean[0], abs=0.04 * np.sqrt(v))
  assert out.var() == pytest.approx(v / (1 - h / (2 * v)), rel=0.04)


@pytest.mark.parametrize("name", TIMES)
def test_langevins_step_follows_the_batchs_norms(name):
  """By hand, with the released rule 2 alpha (snr |z| / |score|)^2."""
  process, t = oracles.PROCESSES[name], jnp.asarray(TIMES[name])
  denoiser = oracles.denoiser(process, oracles.MIXTURE_2D)
  x = oracles.draw(oracles.MIXTURE_2D, process, t, 8)
  keys = jax.random.split(jax.random.key(0), 8)
  out = jd.langevin(process, denoiser, 0.16)(keys, x, t)
  z = np.stack([jax.random.normal(key, (2,)) for key in keys])
  score = np.asarray(jd.score_of(process, denoiser(x, t), t))
  ratio = np.linalg.norm(z, axis=1).mean()
  ratio /= np.linalg.norm(score, axis=1).mean()
  # 1 - beta of DDPM; 1 - beta(t) / 1000 of VP and sub-VP, to second order.
  beta = {
    "linear": jd.linear_betas()[399],
    "vp": (0.1 + 0.4 * 19.9) / 1000,
    "subvp": (0.1 + 0.4 * 19.9) / 1000,
  }.get(name, 0.0)
  step = 2 * (1 - beta) * (0.16 * ratio) ** 2
  expected = x + step * score + np.sqrt(2 * step) * z
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_norms_are_averaged_over_the_devices_of_a_pmap():
  process, t = oracles.PROCESSES["ve"], jnp.asarray(0.5)
  denoiser = oracles.denoiser(process, oracles.MIXTURE_2D)
  x = oracles.draw(oracles.MIXTURE_2D, process, t, 16)
  keys = jax.random.split(jax.random.key(0), 16)
  whole = jd.langevin(process, denoiser, 0.16)(keys, x, t)
  split = jd.langevin(process, denoiser, 0.16, axis_name="batch")
  parts = jax.pmap(lambda k, x: split(k, x, t), axis_name="batch")(
    keys.reshape(8, 2), x.reshape(8, 2, 2)
  )
  np.testing.assert_allclose(parts.reshape(16, 2), whole, rtol=1e-5)


def test_the_two_orders():
  """With marks for updates: C(t) P(t, s) against P(t, s) C(s)."""
  process = oracles.PROCESSES["linear"]
  mark = lambda x, digit: 10 * x + digit
  predictor = jd.Sampler(
    lambda x: (), lambda key, x, t, s, memory: (mark(x, 1), memory), 1000
  )
  corrector = lambda key, x, t: mark(x, t)
  x = jnp.zeros((1, 1))
  key, t, s = jax.random.key(0), jnp.asarray(3), jnp.asarray(2)
  released = jd.predictor_corrector(predictor, corrector, 2)
  paper = jd.predictor_corrector(predictor, corrector, 2, corrector_first=False)
  assert released.step(key, x, t, s, ())[0] == 331
  assert paper.step(key, x, t, s, ())[0] == 122
  assert released.evaluations == 3
  denoiser = oracles.denoiser(process, oracles.GAUSSIAN)
  heun = jd.heun_ode(process, denoiser)
  assert jd.predictor_corrector(heun, corrector, 3).evaluations == 5


@pytest.mark.parametrize("kind", [jd.langevin, jd.annealed_langevin])
def test_data_are_not_corrected(kind):
  process = oracles.PROCESSES["linear"]
  denoiser = oracles.denoiser(process, oracles.GAUSSIAN)
  x = jnp.ones((3, 1))
  out = kind(process, denoiser, 0.1)(jax.random.key(0), x, jnp.asarray(0))
  np.testing.assert_array_equal(out, x)


def test_ncsns_sampling():
  """Annealed Langevin alone, NCSNv2's step size; the end is Tweedie's mean.

  Of data N(1, 0.5^2) the last denoising takes the variance of x_0 given x_1
  away, which at sigma = 0.01 is 1e-4 of 0.25.
  """
  sigmas = jd.geometric_sigmas(100, 5.0, 0.01)
  process = jd.DiscreteProcess.from_sigmas(sigmas[::-1])
  denoiser = oracles.denoiser(process, oracles.GAUSSIAN, "x_0")
  eps = jd.langevin_step_size(0.01, 5, sigmas[0] / sigmas[1])
  corrector = jd.annealed_langevin(process, denoiser, jd.ncsn_snr(eps, 0.01))
  # The step at level i is eps (sigma_i / sigma_1)^2.
  t = jnp.asarray(60)
  step = 2 * (jd.ncsn_snr(eps, 0.01) * float(process.sigma(t))) ** 2
  assert step == pytest.approx(eps * (sigmas[40] / 0.01) ** 2, rel=1e-4)
  predictor = jd.no_predictor(process, denoiser)
  sampler = jd.predictor_corrector(predictor, corrector, 5)
  times = jd.descending_times(100, 100)
  x = jax.random.uniform(jax.random.key(0), (10_000, 1))
  out = jax.jit(lambda x: jd.sample(jax.random.key(1), x, times, sampler))(x)
  assert sampler.evaluations == 5
  assert out.mean() == pytest.approx(1.0, abs=0.03)
  # Five steps a level lag a little behind the levels.
  assert out.std() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_the_final_denoising(name):
  """The last x is E[x_0 | x] of the x that stands there without it."""
  process = oracles.PROCESSES[name]
  denoiser = oracles.denoiser(process, oracles.GAUSSIAN, "x_0")
  times = jd.continuous_times(process, 10, 1e-3)
  plain = jd.euler_maruyama(process, denoiser)
  denoised = jd.final_denoise(plain, denoiser, times[-1])
  x = jd.prior(process, jax.random.key(0), (5, 1))
  without = jd.sample(jax.random.key(1), x, times, plain)
  out = jd.sample(jax.random.key(1), x, times, denoised)
  alpha, sigma = oracles.coefficients(process, 1e-3)
  expected = jax.vmap(
    lambda y: oracles.posterior_mean(oracles.GAUSSIAN, alpha, sigma, y)
  )(without)
  np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_drift_and_diffusion_of_edms_process():
  """f = (log alpha)' = 0 and g^2 = (sigma^2)' = 2 t."""
  process, x = jd.KarrasProcess(), jnp.ones((2, 1))
  slope = jax.grad(lambda t: process.sigma(t) ** 2)(3.0)
  assert process.diffusion(jnp.asarray(3.0)) ** 2 == pytest.approx(slope)
  np.testing.assert_array_equal(process.drift(x, jnp.asarray(3.0)), 0 * x)


def test_what_is_refused():
  process = oracles.PROCESSES["vp"]
  denoiser = oracles.denoiser(process, oracles.GAUSSIAN)
  with pytest.raises(ValueError, match="snr must be positive, got 0"):
    jd.langevin(process, denoiser, 0)
  with pytest.raises(ValueError, match="at least 0, got -1"):
    jd.predictor_corrector(jd.ddim(process, denoiser), lambda k, x, t: x, -1)
