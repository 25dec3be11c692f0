"""Importance sampling of t, learned variances and interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxgen.diffusion as jd
from jaxgen import training
from jaxgen.diffusion import importance


def full_history(T, rng):
  t = np.tile(np.arange(1, T + 1), 10)
  losses = rng.uniform(0.5, 1.5, 10 * T) * t**2
  history = importance.update(
    importance.no_history(T), jnp.asarray(t), jnp.asarray(losses)
  )
  return history, losses.reshape(10, T)


def test_draws_follow_the_second_moment_and_weights_undo_them():
  T, n = 5, 200_000
  history, losses = full_history(T, np.random.default_rng(0))
  t, weights = importance.draw(history, jax.random.key(0), n)
  assert t.min() == 1
  assert t.max() == T
  root = np.sqrt((losses**2).mean(0))
  p = 0.999 * root / root.sum() + 0.001 / T
  counts = np.bincount(np.asarray(t), minlength=T + 1)[1:] / n
  np.testing.assert_allclose(counts, p, atol=4 * np.sqrt(0.25 / n))
  # The weighted mean of any function of t is its plain mean over t.
  estimate = (weights * jnp.asarray(t, jnp.float32) ** 3).mean()
  np.testing.assert_allclose(
    estimate, (np.arange(1, T + 1) ** 3).mean(), rtol=0.02
  )


def test_the_history_is_the_same_on_every_device():
  """Gathered under pmap and shard_map, or global under jit on a mesh."""
  rng = np.random.default_rng(1)
  t = jnp.asarray(rng.integers(1, 7, 64))
  losses = jnp.asarray(rng.uniform(0, 1, 64), jnp.float32)
  start = importance.no_history(6)
  want = importance.update(start, t, losses)

  def gathered(t, losses):
    whole = [jax.lax.all_gather(a, "data", tiled=True) for a in (t, losses)]
    return importance.update(start, *whole)

  found = jax.pmap(gathered, "data")(t.reshape(8, 8), losses.reshape(8, 8))
  sharded = training.shard_batch(training.make_mesh(), [t, losses])
  on_mesh = jax.jit(importance.update)(start, *sharded)
  for device in range(8):
    one = jax.tree.map(lambda a, d=device: a[d], found)
    jax.tree.map(np.testing.assert_array_equal, one, want)
  jax.tree.map(np.testing.assert_array_equal, on_mesh, want)


def exact_v(process, mixture, t, s):
  """v of the exact p(x_s | x_t) of Gaussian data.

  Its variance is the posterior's plus that of x_0 given x_t, seen through the
  posterior mean.
  """
  alpha, sigma = process.alpha(t), process.sigma(t)
  std = mixture.stds[0]
  x_0_variance = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)
  one = jnp.ones((1, 1))
  c_1, small = jd.posterior(process, 0 * one, one, t, s)
  _, large = jd.transition(process, t, s, one)
  exact = small + c_1**2 * x_0_variance
  small = jnp.maximum(small, 1e-20)
  return jnp.log(exact / small) / jnp.log(large / small)


@pytest.mark.parametrize("steps", [2, 5, 50])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_exact_variance_is_exact_for_any_number_of_steps(schedule, steps):
  """With Gaussian data p(x_s | x_t) is Gaussian: strided steps lose nothing.

  The last step, which adds no noise, ends in E[x_0 | x_1].
  """
  process, mixture = oracles.PROCESSES[schedule], oracles.GAUSSIAN
  eps_network = oracles.networks(process, mixture)["eps"]
  times = np.append(jd.descending_times(1000, steps)[:-1], 1)
  x = oracles.draw(mixture, process, 1000, 40_000)

  @jax.jit
  def step(x, key, t, s):
    def network(x, t):
      v = exact_v(process, mixture, t[0], s)
      eps = eps_network(x, t)
      return jnp.concatenate([eps, 2 * v * jnp.ones_like(x) - 1], axis=-1)

    denoiser = jd.learned_range_denoiser(process, network)
    return jd.ancestral(process, denoiser).step(key, x, t, s, ())[0]

  for t, s in zip(times, times[1:], strict=False):
    x = step(x, jax.random.key(int(t)), jnp.asarray(t), jnp.asarray(s))
  mean, cov = oracles.moments(mixture, process, 1)
  assert x.mean() == pytest.approx(mean[0], abs=0.012)
  assert x.var() == pytest.approx(cov[0, 0], rel=0.03)


def test_a_learned_variance_needs_twice_the_channels():
  process = oracles.PROCESSES["linear"]
  denoiser = jd.learned_range_denoiser(process, lambda x, t: x)
  with pytest.raises(ValueError, match=r"output \(2, 6\) for x_t"):
    denoiser(jnp.zeros((2, 3)), jnp.array([1, 2]))


def test_slerp_stays_on_the_sphere():
  a, b = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
  unit = lambda x: x / jnp.linalg.norm(x.reshape(3, -1), axis=1)[:, None, None]
  a, b = unit(a), unit(b)
  for w in (0.0, 0.3, 1.0):
    norms = jnp.linalg.norm(jd.slerp(a, b, w).reshape(3, -1), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
  np.testing.assert_allclose(jd.slerp(a, b, 0.0), a, atol=1e-6)
  np.testing.assert_allclose(jd.slerp(a, b, jnp.ones(3)), b, atol=1e-6)
  # Angles grow evenly: a third of the way is a third of the angle.
  third = jd.slerp(a, b, 1 / 3)
  angle = lambda x, y: jnp.arccos((x * y).sum((1, 2)))
  np.testing.assert_allclose(angle(a, third), angle(a, b) / 3, rtol=1e-4)
  # Parallel ends have no circle between them.
  np.testing.assert_allclose(jd.slerp(a, 2 * a, 0.5), 1.5 * a, rtol=1e-5)
  with pytest.raises(ValueError, match="one shape"):
    jd.slerp(a, b[:2], 0.5)
