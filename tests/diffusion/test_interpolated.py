"""Levels between those of a discrete process, and the samplers there."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

sys.path.insert(0, str(Path(__file__).parents[1]))
import oracles

DISCRETE = {
  "sd1": jd.DiscreteProcess.from_betas(jd.scaled_linear_betas()),
  "cosine": oracles.PROCESSES["cosine"],
  "smld": oracles.PROCESSES["smld"],
}
SD1 = jd.InterpolatedProcess(DISCRETE["sd1"])


@jax.jit
def tables(process, t):
  """alpha, sigma and the fresh noise of neighbours."""
  return process.alpha(t), process.sigma(t), process.fresh(t[1:], t[:-1])


def level(t, process=SD1):
  alpha, sigma, _ = tables(process, np.atleast_1d(np.float32(t)))
  return np.float64(sigma) / np.float64(alpha)


@pytest.mark.parametrize("name", DISCRETE)
def test_at_whole_times_it_is_the_discrete_process(name):
  discrete = DISCRETE[name]
  process, t = jd.InterpolatedProcess(discrete), np.arange(1001)
  assert process.T == 1000.0
  assert not isinstance(process.T, int)
  for times in (t, t.astype(np.float32)):
    for got, want in zip(
      tables(process, times), tables(discrete, t), strict=True
    ):
      np.testing.assert_allclose(got, want, rtol=3e-6)
  assert process.prior_std == discrete.prior_std


def test_the_ends_of_sd1():
  """Published with SD1's samplers: 0.0292 and 14.6146."""
  assert SD1.sigma_min == pytest.approx(0.02916715815, rel=1e-7)
  assert SD1.sigma_max == pytest.approx(14.61464123, rel=1e-7)


@pytest.mark.parametrize("name", ["sd1", "smld"])
def test_between_whole_times(name):
  """The level is the geometric mean half-way; variance is kept, or alpha."""
  process = jd.InterpolatedProcess(DISCRETE[name])
  low = np.array([1.0, 41.0, 999.0], np.float32)
  middle, first, second = (level(low + w, process) for w in (0.5, 0, 1))
  np.testing.assert_allclose(middle**2, first * second, rtol=1e-6)
  alpha, sigma, _ = tables(process, low + 0.5)
  if name == "sd1":
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)
  else:
    np.testing.assert_array_equal(alpha, 1)
  near_data = np.array([0, 0.25, 0.5])
  np.testing.assert_allclose(
    level(near_data, process), near_data * first[0], rtol=1e-6
  )


def test_fresh_noise_of_a_short_step():
  """1 - snr_t / snr_s of neighbours, against float64 of the same formula."""
  t = np.arange(1, 1000, 0.25, dtype=np.float32)
  logs = np.interp(t, np.arange(1, 1001), np.log(SD1.levels()))
  want = -np.expm1(2 * (logs[:-1] - logs[1:]))
  np.testing.assert_allclose(tables(SD1, t)[2], want, rtol=3e-4)
  assert tables(SD1, np.array([0.0, 5.0]))[2] == 1


def test_times_and_levels_are_inverse():
  sigmas = jd.karras_times(30, SD1.sigma_min, SD1.sigma_max)
  times = jd.times_of_sigmas(SD1, sigmas)
  assert times[0] == 1000
  assert times[-2:].tolist() == [1, 0]
  np.testing.assert_allclose(level(times), sigmas, rtol=1e-6)
  whole = jd.times_of_sigmas(SD1, SD1.levels())
  np.testing.assert_allclose(whole, np.arange(1, 1001), rtol=1e-6)
  assert jd.times_of_sigmas(SD1, [SD1.sigma_min / 4]) == pytest.approx(0.25)


def test_linspace_times():
  times = jd.linspace_times(1000, 20)
  assert times.shape == (21,)
  assert times[0] == 1000
  assert times[-2:].tolist() == [1, 0]
  np.testing.assert_allclose(np.diff(times[:-1]), -999 / 19, rtol=1e-5)


@pytest.mark.parametrize(
  ("sampler", "order"), [(jd.ddim, 1), (jd.dpm_solver_pp_2m, 2)]
)
def test_order_on_karras_levels(sampler, order):
  """Against the closed-form flow of a Gaussian, down to the lowest level."""
  denoiser = oracles.denoiser(SD1, oracles.GAUSSIAN, "x_0")
  errors, counts = [], (20, 40, 80)
  step = jax.jit(sampler(SD1, denoiser).step)
  for n in counts:
    sigmas = jd.karras_times(n, SD1.sigma_min, SD1.sigma_max)[:-1]
    times = jd.times_of_sigmas(SD1, sigmas)
    start = jnp.linspace(-2.0, 2.0, 11)[:, None]
    x, memory = start, sampler(SD1, denoiser).init(start)
    for t, s in zip(times, times[1:], strict=False):
      x, memory = step(jax.random.key(0), x, t, s, memory)
    exact = oracles.gaussian_flow(oracles.GAUSSIAN, SD1, 1000.0, 1.0, start)
    errors.append(np.abs(np.asarray(x) - exact).max())
  got = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
  assert got == pytest.approx(order, abs=0.35), errors


@pytest.mark.parametrize("name", [*oracles.PROCESSES, "interpolated"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_euler_ancestral_is_ddim(name, eta, monkeypatch):
  """k-diffusion's step in y = x / alpha, its sigmas being sigma / alpha."""
  process = oracles.PROCESSES.get(name, SD1)
  grid = oracles.grid(process, 8) if name != "interpolated" else None
  t, s = (grid[2], grid[3]) if grid is not None else (620.7, 410.2)
  x, eps, z = np.random.default_rng(0).standard_normal((3, 5, 2))
  monkeypatch.setattr(jd.samplers, "normal_like", lambda key, x: jnp.asarray(z))
  denoiser = lambda x, t: jd.from_eps(process, x, t, jnp.asarray(eps))
  got, _ = jd.ddim(process, denoiser, eta).step(None, jnp.asarray(x), t, s, ())

  alpha_t, sigma_t, alpha_s, sigma_s = (
    np.float64(f(time))
    for time in (t, s)
    for f in (process.alpha, process.sigma)
  )
  before, after = sigma_t / alpha_t, sigma_s / alpha_s
  up = min(after, eta * np.sqrt(after**2 * (before**2 - after**2) / before**2))
  down = np.sqrt(after**2 - up**2)
  want = alpha_s * (x / alpha_t + (down - before) * eps + up * z)
  np.testing.assert_allclose(
    got, want, rtol=2e-5, atol=2e-5 * np.abs(want).max()
  )


def test_it_is_a_pytree():
  leaves, structure = jax.tree.flatten(SD1)
  assert jax.tree.unflatten(structure, leaves).T == 1000.0
  assert jax.tree.map(lambda a: "x", SD1).discrete.alphas == "x"
  jitted = jax.jit(lambda process, t: process.sigma(t))
  assert jitted(SD1, 3.5) == pytest.approx(float(SD1.sigma(3.5)), rel=1e-6)
  assert np.isnan(jitted(SD1, 1000.5))


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: SD1.alpha(1000.5), r"t must lie in \[0, 1000"),
    (lambda: jd.InterpolatedProcess(jd.VPSDE()), "got VPSDE of T = 1.0"),
    (
      lambda: jd.InterpolatedProcess(jd.DiscreteProcess.from_betas([0.1])),
      "got DiscreteProcess of T = 1",
    ),
    (lambda: jd.times_of_sigmas(SD1, [20.0, 1.0]), r"sigmas in \[0, 14.6146\]"),
    (lambda: jd.times_of_sigmas(SD1, [np.nan]), "got values in"),
    (lambda: jd.linspace_times(1000, 0), "number of steps"),
  ],
)
def test_what_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
