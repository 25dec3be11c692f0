"""Controlled sampling where the conditional distribution is known."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

sys.path.insert(0, str(Path(__file__).parents[1]))
import oracles

N = 4000
MEAN = np.array([0.5, -0.3, 0.2])
COV = np.array([[0.5, 0.2, 0.1], [0.2, 0.4, -0.1], [0.1, -0.1, 0.6]])


def gaussian_denoiser(process):
  """The exact denoiser of N(MEAN, COV), a dense covariance."""
  values, axes = map(jnp.asarray, np.linalg.eigh(COV))

  def network(x, t):
    alpha, sigma = process.alpha(t)[0], process.sigma(t)[0]
    centred = x.reshape(-1, 3) - (alpha * jnp.asarray(MEAN))[None]
    variances = alpha**2 * values + sigma**2
    score = -(centred @ axes / variances[None]) @ axes.T
    return score.reshape(x.shape)

  return jd.score_denoiser(process, network)


def conditional(A, y):
  """Mean and covariance of x given A x = y."""
  gain = COV @ A.T @ np.linalg.inv(A @ COV @ A.T)
  return MEAN + gain @ (y - A @ MEAN), COV - gain @ A @ COV


def corrected(process):
  """Predictor-corrector: Langevin steps let the free part equilibrate."""
  denoiser = gaussian_denoiser(process)
  return jd.predictor_corrector(
    jd.ancestral(process, denoiser),
    jd.annealed_langevin(process, denoiser, 0.4),
    2,
  )


def run(process, sampler, shape):
  if isinstance(process.T, int):
    times = jd.descending_times(process.T, 250)
  else:
    times = jd.continuous_times(process, 250, 1e-4)
  x = jd.prior(process, jax.random.key(0), shape)
  draw = jax.jit(lambda x: jd.sample(jax.random.key(1), x, times, sampler))
  return np.asarray(draw(x), np.float64)


def assert_conditional(x, A, y, measured_to):
  """The measured part is exact; the free one close in mean and covariance."""
  np.testing.assert_allclose(
    x @ A.T, np.broadcast_to(y, (len(x), len(y))), atol=measured_to
  )
  mean, cov = conditional(A, y)
  assert np.abs(x.mean(0) - mean).max() < 0.06
  assert np.abs(np.cov(x.T) - cov).max() < 0.06
  assert np.abs(x.mean(0) - MEAN).max() > 0.3  # the condition matters


@pytest.mark.parametrize("name", ["linear", "smld", "vp", "subvp", "ve"])
def test_a_linear_inverse_problem(name):
  process = oracles.PROCESSES[name]
  A = np.array([[1.0, 2.0, 0.5]])
  y = np.array([1.1])
  sampler = jd.linear_inverse(
    process, corrected(process), jnp.tile(y, (N, 1)), jnp.asarray(A)
  )
  x = run(process, sampler, (N, 3))
  noise = 0.0 if isinstance(process.T, int) else float(process.sigma(1e-4))
  assert_conditional(x, A, y, 1e-4 + 12 * noise)


def test_inpainting():
  process = oracles.PROCESSES["linear"]
  y = np.array([1.4, 0.1])
  known = jnp.tile(jnp.asarray([1.4, 0.1, 9.0]), (N, 1)).reshape(N, 1, 3, 1)
  mask = jnp.asarray([1, 1, 0]).reshape(1, 1, 3, 1)
  sampler = jd.inpaint(process, corrected(process), known, mask)
  x = run(process, sampler, (N, 1, 3, 1)).reshape(N, 3)
  assert_conditional(x, np.eye(3)[:2], y, 1e-6)


def test_colours():
  """The three dimensions as one pixel's colours, of known mean."""
  process = oracles.PROCESSES["linear"]
  grey = jnp.full((N, 1, 1, 1), 0.6)
  sampler = jd.colorize(process, corrected(process), grey)
  x = run(process, sampler, (N, 1, 1, 3)).reshape(N, 3)
  assert_conditional(x, np.full((1, 3), 1 / 3), np.array([0.6]), 1e-5)


def test_a_condition_of_independent_parts_changes_nothing_else():
  """Two independent dimensions: the free one has its own marginal."""
  process = oracles.PROCESSES["vp"]
  data = oracles.Mixture(np.ones(1), np.array([[1.0, -1.0]]), np.array([0.4]))
  sampler = jd.ancestral(process, oracles.denoiser(process, data, "x_0"))
  known, mask = jnp.full((N, 2), 3.0), jnp.asarray([[1, 0]])
  x = run(process, jd.inpaint(process, sampler, known, mask), (N, 2))
  np.testing.assert_allclose(x[:, 0], 3.0, atol=0.02)
  assert x[:, 1].mean() == pytest.approx(-1.0, abs=0.03)
  assert x[:, 1].std() == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_a_class_by_its_exact_classifier(name):
  """Of a mixture, with log p(component | x_t), comes the component."""
  process, data = oracles.PROCESSES[name], oracles.MIXTURE_2D

  def classifier(x, t):
    alpha, sigma = process.alpha(t), process.sigma(t)

    def logits(alpha, sigma, x):
      parts = [
        oracles.Mixture(np.ones(1), data.means[[k]], data.stds[[k]])
        for k in range(2)
      ]
      return jnp.stack(
        [
          oracles.log_density(part, alpha, sigma, x) + np.log(weight)
          for part, weight in zip(parts, data.weights, strict=True)
        ]
      )

    return jax.vmap(logits)(alpha, sigma, x)

  labels = jnp.asarray(np.arange(N) % 2)
  guided = jd.classifier_guided(
    process,
    oracles.denoiser(process, data),
    jd.class_log_prob(classifier, labels),
    1.0,
  )
  x = run(process, jd.euler_maruyama(process, guided), (N, 2))
  for k in range(2):
    mine = x[np.asarray(labels) == k]
    np.testing.assert_allclose(mine.mean(0), data.means[k], atol=0.05)
    np.testing.assert_allclose(mine.std(0), data.stds[k], atol=0.03)


@pytest.mark.parametrize(
  ("n", "strength", "k"), [(50, 0.75, 37), (20, 0.75, 15), (50, 1.0, 50)]
)
def test_image_to_image_starts_part_of_the_way(n, strength, k):
  """x is alpha x_0 + sigma eps at the first time that is left."""
  process, grid = oracles.PROCESSES["linear"], jd.sd1_times(n)
  x_0 = jnp.full((2000, 2), 30.0)
  x, times = jd.image_to_image(process, jax.random.key(0), x_0, grid, strength)
  np.testing.assert_array_equal(times, grid[n - k :])
  alpha, sigma = (float(f(times[0])) for f in (process.alpha, process.sigma))
  assert x.mean() == pytest.approx(30 * alpha, abs=5 * sigma / np.sqrt(4000))
  assert x.std() == pytest.approx(sigma, rel=0.05)


def test_an_image_edited_with_the_exact_denoiser_keeps_its_law():
  """From q(x_t | x_0) with x_0 of the data the reverse gives the data."""
  process = oracles.PROCESSES["linear"]
  x_0 = oracles.draw(oracles.MIXTURE_1D, process, 0, N)
  x, times = jd.image_to_image(
    process, jax.random.key(0), x_0, jd.descending_times(1000, 200), 0.5
  )
  sampler = jd.ddim(process, oracles.denoiser(process, oracles.MIXTURE_1D), 0.5)
  out = jax.jit(lambda x: jd.sample(jax.random.key(1), x, times, sampler))(x)
  levels = oracles.cdf(oracles.MIXTURE_1D, process, 1, np.asarray(out)[:, 0])
  gaps = np.sort(levels) - (np.arange(N) + 0.5) / N
  assert np.abs(gaps).max() < 0.05
  # Half of the noise leaves much of the image in place.
  assert 0.05 < np.corrcoef(np.ravel(x_0), np.ravel(out))[0, 1] < 0.95


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5, 0.01, float("nan")])
def test_image_to_image_refuses_strengths(strength):
  with pytest.raises(ValueError, match=r"\(0, 1\] that leaves one of 50 steps"):
    jd.image_to_image(
      oracles.PROCESSES["linear"],
      jax.random.key(0),
      jnp.zeros((1, 2)),
      jd.sd1_times(50),
      strength,
    )


def test_image_to_image_refuses_times_that_ascend():
  with pytest.raises(ValueError, match="times that descend, got 1, "):
    jd.image_to_image(
      oracles.PROCESSES["linear"],
      jax.random.key(0),
      jnp.zeros((1, 2)),
      jd.sd1_times(50)[::-1],
      0.5,
    )


def test_what_is_refused():
  process = oracles.PROCESSES["vp"]
  sampler = jd.ddim(process, gaussian_denoiser(process))
  images = jnp.zeros((2, 4, 4, 3))
  with pytest.raises(ValueError, match="mask of 4 axes"):
    jd.inpaint(process, sampler, images, jnp.ones((4, 4)))
  with pytest.raises(ValueError, match=r"\[B, H, W, 1\], got shape"):
    jd.colorize(process, sampler, images)
  with pytest.raises(ValueError, match=r"A \[M, D\], got"):
    jd.linear_inverse(process, sampler, jnp.zeros((2, 2)), jnp.zeros((1, 3)))
