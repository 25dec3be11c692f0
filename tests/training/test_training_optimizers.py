"""Adam against Kingma & Ba's formulas, averages against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import training


def kingma_ba(gradients, lr, warmup_steps, clip_norm):
  """Algorithm 1 in float64, after clipping, with a rate lr min(1, n / W)."""
  theta, m, v = 0.0, 0.0, 0.0
  for t, g in enumerate(gradients, 1):
    g = g * min(1.0, clip_norm / np.linalg.norm(g))
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    rate = lr * min(1.0, (t - 1) / warmup_steps)
    theta = theta - rate * m_hat / (np.sqrt(v_hat) + 1e-8)
  return theta


def test_adam_with_clipping_and_warm_up():
  rng = np.random.default_rng(0)
  gradients = rng.standard_normal((9, 5)) * np.geomspace(0.01, 10, 9)[:, None]
  optimizer = training.adam(0.1, warmup_steps=4, clip_norm=1.0)
  # Two leaves, so that the norm is that of the whole tree.
  params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
  opt_state = optimizer.init(params)
  for n, g in enumerate(gradients, 1):
    grads = {"a": jnp.float32(g[:2]), "b": jnp.float32(g[2:])}
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    expected = kingma_ba(gradients[:n], 0.1, 4, 1.0)
    found = np.concatenate([params["a"], params["b"]])
    # In float32, 1 - 0.999^t is good to four digits at t = 1.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_rate_rises_and_falls_linearly():
  """Under a constant gradient, Adam's update is the rate itself."""
  optimizer = training.adam(0.1, warmup_steps=2, decay_steps=8)
  opt_state = optimizer.init(jnp.zeros(1))
  moves = []
  for _ in range(10):
    move, opt_state = optimizer.update(jnp.ones(1), opt_state)
    moves.append(-float(move[0]))
  n = np.arange(10)
  expected = 0.1 * np.minimum(1, n / 2) * np.maximum(0, 1 - n / 8)
  np.testing.assert_allclose(moves, expected, rtol=1e-4, atol=1e-9)


def test_adam_without_clipping_first_moves_by_the_rate():
  optimizer = training.adam(0.1)
  params = jnp.zeros(3)
  g = jnp.array([1e-3, -50.0, 2.0])
  updates, _ = optimizer.update(g, optimizer.init(params), params)
  np.testing.assert_allclose(updates, -0.1 * jnp.sign(g), rtol=2e-5)


def run(optimizer, ema_decay, num_steps, ema=None):
  """Trains on the loss <c, params>, whose gradient is c."""
  mesh = training.make_mesh(devices=jax.devices()[:1])
  c = jnp.array([1.0, -2.0, 2.0])
  state = training.init_state(jnp.ones(3), optimizer, jax.random.key(0))
  state = state if ema is None else state.replace(ema=ema)
  state = training.shard_state(mesh, state)
  step = training.make_train_step(
    lambda params, key, batch: jnp.sum(c * params), optimizer, ema_decay, mesh
  )
  for _ in range(num_steps):
    state, metrics = step(state, jnp.zeros(1))
  return c, state, metrics


@pytest.mark.parametrize("n", [1, 2, 30])
def test_average_of_a_line(n):
  """p_n = p_0 - n h gives ema_n = p_n + h d (1 - d^n) / (1 - d)."""
  d = 0.9
  c, state, metrics = run(optax.sgd(0.01), training.constant_ema(d), n)
  params = 1.0 - 0.01 * n * c
  lag = 0.01 * c * d * (1 - d**n) / (1 - d)
  np.testing.assert_allclose(state.params, params, rtol=1e-5)
  np.testing.assert_allclose(state.ema, params + lag, rtol=1e-5)
  np.testing.assert_allclose(metrics["grad_norm"], 3.0, rtol=1e-6)


def test_warmed_up_average_forgets_by_the_product_of_decays():
  """The product of (1 + k) / (10 + k) over k = 1..n is (n+1)! 10! / (n+10)!."""
  decay = training.warmed_up_ema(0.9999)
  n, start = 6, jnp.array([5.0, 6.0, 7.0])
  _, state, _ = run(optax.sgd(0.0), decay, n, ema=start)
  left = math.factorial(n + 1) * math.factorial(10) / math.factorial(n + 10)
  expected = 1.0 + left * (start - 1.0)
  np.testing.assert_allclose(state.ema, expected, rtol=1e-6)
  # (1 + n) / (10 + n) reaches 0.9999 at n = 89990.
  np.testing.assert_allclose(decay(89_000), 89_001 / 89_010, rtol=1e-7)
  np.testing.assert_allclose(decay(100_000), 0.9999, rtol=1e-7)


def test_under_warm_up_the_first_update_leaves_params_and_average_alone():
  optimizer = training.adam(0.1, warmup_steps=10)
  _, state, _ = run(optimizer, training.constant_ema(0.9999), 1)
  np.testing.assert_array_equal(state.params, np.ones(3))
  np.testing.assert_array_equal(state.ema, np.ones(3))


def test_bad_hyper_parameters_are_refused():
  with pytest.raises(ValueError, match="warmup_steps must be at least 0"):
    training.adam(0.1, warmup_steps=-1)
  with pytest.raises(ValueError, match="clip_norm must be positive"):
    training.adam(0.1, clip_norm=0.0)
  with pytest.raises(ValueError, match="decay_steps must be positive"):
    training.adam(0.1, decay_steps=0)
  with pytest.raises(ValueError, match="decay lies in"):
    training.constant_ema(1.5)
  with pytest.raises(TypeError, match=r"jax\.random\.key"):
    training.init_state({}, optax.sgd(0.1), jax.random.PRNGKey(0))
