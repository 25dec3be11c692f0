"""Micro-batches: the whole batch's numbers, with less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import training

BATCH = 32
X = np.random.default_rng(0).standard_normal((BATCH, 8), np.float32)


def step_of(loss_fn, accumulate, mesh=None, params=None, memory=()):
  """(state, metrics) after one step of gradient descent at rate 1."""
  mesh = training.make_mesh() if mesh is None else mesh
  optimizer = optax.sgd(1.0)
  params = {"w": jnp.arange(8.0)} if params is None else params
  state = training.init_state(params, optimizer, jax.random.key(1), memory)
  train_step = training.make_train_step(
    loss_fn, optimizer, training.constant_ema(0.9), mesh, accumulate
  )
  return train_step(
    training.shard_state(mesh, state), training.shard_batch(mesh, X)
  )


def squares(params, key, batch):
  error = jnp.tanh(batch @ params["w"])
  return jnp.mean(error**2), {"mean_error": jnp.mean(error)}


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)])
def test_gradient_is_that_of_the_whole_batch(mesh):
  data, fsdp, tensor = mesh
  mesh = training.make_mesh(data, fsdp, tensor=tensor)
  state, metrics = step_of(squares, 4, mesh)
  # In float64, by hand: tanh' = 1 - tanh^2.
  x, w = X.astype(np.float64), np.arange(8.0)
  error = np.tanh(x @ w)
  gradient = (2 * error * (1 - error**2)) @ x / BATCH
  np.testing.assert_allclose(state.params["w"], w - gradient, atol=1e-6)
  np.testing.assert_allclose(metrics["loss"], np.mean(error**2), rtol=1e-6)
  np.testing.assert_allclose(metrics["mean_error"], error.mean(), atol=1e-6)
  norm = np.linalg.norm(gradient)
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


def test_every_micro_batch_has_a_key_of_its_own():
  """A mean over n independent uniform numbers has the variance 1 / 12 n."""

  def uniform(params, key, batch):
    draw = jax.random.uniform(key)
    return draw + 0 * params["w"].sum(), {"square": draw**2}

  n = 4
  _, metrics = step_of(uniform, n)
  variance = metrics["square"] - metrics["loss"] ** 2
  assert variance > 1e-3  # of the draws of one step; 0 if they were the same


def test_a_memory_goes_from_one_to_the_next():
  def counting(params, key, batch, memory):
    seen = memory["seen"].at[memory["n"]].set(batch.sum())
    return (
      (params["w"] * batch).mean(),
      {},
      {"n": memory["n"] + 1, "seen": seen},
    )

  memory = {"n": jnp.int32(0), "seen": jnp.zeros(4)}
  params = {"w": jnp.ones((1, 8))}
  state, _ = step_of(counting, 4, params=params, memory=memory)
  assert int(state.memory["n"]) == 4
  # Every row is seen once, and each device's rows in each micro-batch.
  rows = X.sum(1).reshape(8, 4)
  np.testing.assert_allclose(state.memory["seen"], rows.sum(0), rtol=1e-4)


def test_activations_take_less_memory():
  def deep(params, key, batch):
    x = jnp.tile(batch, (1, 64))
    for _ in range(8):
      x = jnp.sin(x) * params["w"].sum()
    return x.mean()

  def temporary(accumulate):
    mesh = training.make_mesh(devices=jax.devices()[:1])
    optimizer = optax.sgd(1.0)
    state = training.init_state(
      {"w": jnp.ones(8)}, optimizer, jax.random.key(1)
    )
    train_step = training.make_train_step(
      deep, optimizer, training.constant_ema(0.9), mesh, accumulate
    )
    compiled = train_step.lower(state, jnp.asarray(X)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(8) < 0.3 * temporary(1)


def test_batches_that_do_not_divide_are_refused():
  message = (
    r"a batch for 3 micro-batches over 8 devices must be a multiple of 24, got "
    r"shape \[32, 8\]"
  )
  with pytest.raises(ValueError, match=message):
    step_of(squares, 3)
  with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
    step_of(squares, 0)
