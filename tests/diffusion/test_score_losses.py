"""Score matching against its closed forms on Gaussians; NCSNv2's numbers."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

sys.path.insert(0, str(Path(__file__).parents[1]))
import oracles

N = 40_000
DATA = oracles.Mixture(np.ones(1), np.array([[0.7, -0.2]]), np.array([0.5]))
TIMES = {"ve": 0.4, "vp": 0.3, "subvp": 0.3, "linear": 300, "smld": 600}


def scaled_denoiser(process, theta):
  """theta[0] times the exact score, plus theta[1]."""
  network = oracles.networks(process, DATA)["score"]
  return jd.score_denoiser(
    process, lambda x, t: theta[0] * network(x, t) + theta[1]
  )


@functools.cache
def draws():
  """(a key, exact data)."""
  data_key, key = jax.random.split(jax.random.key(0))
  z = jax.random.normal(data_key, (N, 2))
  return key, jnp.asarray(DATA.means, jnp.float32) + 0.5 * z


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("loss", ["mean", "sum", "likelihood", "sliced"])
def test_the_loss_of_the_exact_score(name, loss):
  """Its value, by hand, and no gradient: nothing does better.

  With v = alpha^2 s^2 + sigma^2 the score is -(x - alpha m) / v, and
  E|sigma score + z|^2 = D (1 - sigma^2 / v). Sliced: -D sigma^2 / (2 v).
  """
  process, t = oracles.PROCESSES[name], jnp.asarray(TIMES[name])
  if loss == "likelihood" and isinstance(process.T, int):
    pytest.skip("of continuous processes")
  key, x_0 = draws()

  @jax.jit
  @jax.value_and_grad
  def value(theta):
    denoiser = scaled_denoiser(process, theta)
    if loss == "sliced":
      return jd.sliced_score_matching_loss(process, denoiser, key, x_0, t)
    if loss == "likelihood":
      return jd.score_matching_loss(
        process, denoiser, key, x_0, t, likelihood_weighting=True
      )
    return jd.score_matching_loss(
      process, denoiser, key, x_0, t, reduction=loss
    )

  alpha, sigma = (float(a) for a in oracles.coefficients(process, t))
  v = (0.5 * alpha) ** 2 + sigma**2
  residual = 1 - sigma**2 / v
  expected = {
    "mean": residual,
    "sum": residual,  # half of two dimensions
    "likelihood": residual,
    "sliced": -(sigma**2) / v,
  }[loss]
  weight = 1.0
  if loss == "likelihood":
    weight = float(process.diffusion(t)) ** 2 / sigma**2
  at_exact, slope = value(jnp.asarray([1.0, 0.0]))
  scale = max(abs(expected), sigma**2 / v) * weight
  assert at_exact == pytest.approx(expected * weight, abs=0.03 * scale + 1e-4)
  # In units of the loss's curvature sigma^2 / v and sigma^2.
  steps = np.asarray([sigma**2 / v, sigma / np.sqrt(v) * sigma]) * weight
  assert (np.abs(slope) < 0.08 * steps + 1e-4).all(), (slope, steps)
  for theta in ([1.3, 0.0], [0.7, 0.0], [1.0, 0.4 / np.sqrt(v)]):
    assert value(jnp.asarray(theta))[0] > at_exact


def test_ncsns_loss_is_written_as_in_the_paper():
  """1/2 sigma^2 |s(x~) + (x~ - x) / sigma^2|^2 summed, from the same draws."""
  process, t = oracles.PROCESSES["smld"], jnp.asarray([10, 500, 900])
  key, x_0 = jax.random.key(3), jax.random.normal(jax.random.key(1), (3, 2))
  network = lambda x, t: jnp.sin(x)
  denoiser = jd.score_denoiser(process, network)
  arguments = process, denoiser, key, x_0, t
  loss = jax.jit(jd.ncsn_loss, static_argnums=1)(*arguments)
  x_t, _ = jax.jit(jd.q_sample)(process, jax.random.split(key)[1], x_0, t)
  sigma = np.asarray(process.sigma(t), np.float64)[:, None]
  gap = np.asarray(network(x_t, t)) + np.asarray(x_t - x_0) / sigma**2
  expected = 0.5 * (sigma**2 * gap**2).sum(1).mean()
  assert loss == pytest.approx(expected, rel=1e-3)


def test_ddpms_loss_is_the_simple_loss():
  process, key = oracles.PROCESSES["linear"], jax.random.key(3)
  x_0 = jax.random.normal(jax.random.key(1), (64, 2))
  network = lambda x, t: jnp.sin(x)

  @jax.jit
  def both(key, x_0):
    denoiser = jd.eps_denoiser(process, network)
    return (
      jd.score_matching_loss(process, denoiser, key, x_0),
      jd.simple_loss(process, network, key, x_0),
    )

  loss, simple = both(key, x_0)
  assert loss == pytest.approx(float(simple), rel=1e-5)


def test_sliced_and_denoising_losses_differ_by_a_constant():
  """For any two scores: 1/2 E|sigma s + z|^2 = sliced + 1/2 E|z|^2."""
  process, t = oracles.PROCESSES["vp"], jnp.asarray(0.5)
  key, x_0 = draws()

  @jax.jit
  def gap(theta):
    denoiser = scaled_denoiser(process, theta)
    denoising = jd.score_matching_loss(
      process, denoiser, key, x_0, t, reduction="sum"
    )
    return denoising - jd.sliced_score_matching_loss(
      process, denoiser, key, x_0, t, num_projections=2
    )

  for theta in ([0.5, 0.2], [1.5, -0.3]):
    assert gap(jnp.asarray(theta)) == pytest.approx(1.0, abs=0.03)


def test_what_is_refused():
  process, x_0 = oracles.PROCESSES["linear"], jnp.zeros((2, 2))
  denoiser = oracles.denoiser(process, DATA)

  def loss(**how):
    jax.eval_shape(
      lambda key: jd.score_matching_loss(process, denoiser, key, x_0, **how),
      jax.random.key(0),
    )

  with pytest.raises(ValueError, match="continuous process"):
    loss(likelihood_weighting=True)
  with pytest.raises(ValueError, match="got 'max'"):
    loss(reduction="max")
  with pytest.raises(ValueError, match="ratio > 1"):
    jd.num_levels(50, 0.01, 1.0)


def test_ncsnv2s_numbers_for_cifar10():
  """232 levels from 50 to 0.01, five steps of 6.2e-6 (Table 4 there)."""
  sigmas = jd.geometric_sigmas(232, 50, 0.01)
  ratio = sigmas[0] / sigmas[1]
  assert ratio == pytest.approx(1.03755913, abs=1e-8)
  assert jd.num_levels(50, 0.01, ratio) == 232
  assert jd.langevin_variance_ratio(6.2e-6, 0.01, 5, ratio) == pytest.approx(
    1.0555, abs=1e-4
  )
  assert jd.langevin_step_size(0.01, 5, ratio) == pytest.approx(
    6.2e-6, rel=0.01
  )
  assert jd.level_ratio(3072) == pytest.approx(ratio, abs=0.003)


def test_the_variance_ratio_is_that_of_the_dynamics():
  """Langevin steps at one level, on data at the point 0, by recursion."""
  eps, sigma, steps, ratio = 4e-6, 0.01, 7, 1.1
  variance = (ratio * sigma) ** 2
  for _ in range(steps):
    variance = (1 - eps / sigma**2) ** 2 * variance + 2 * eps
  assert jd.langevin_variance_ratio(eps, sigma, steps, ratio) == pytest.approx(
    variance / sigma**2
  )


def test_the_largest_distance():
  x = np.random.default_rng(0).standard_normal((50, 3, 2)).astype(np.float32)
  gaps = x.reshape(50, 1, 6) - x.reshape(1, 50, 6)
  found = jd.max_pairwise_distance(x, chunk=16)
  assert found == pytest.approx(np.linalg.norm(gaps, axis=-1).max(), rel=1e-5)
