"""A step that is not finite is as one that was never made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import training

BAD = 2  # of the batches


def batches(count=5, rows=8):
  rng = np.random.default_rng(0)
  return [rng.standard_normal((rows, 512), np.float32) for _ in range(count)]


def error(params, key, batch):
  """No noise: what comes of a batch depends on the parameters alone."""
  del key
  return jnp.mean((batch @ params["w"]) ** 2) + jnp.sum(params["b"] ** 2)


OPTIMIZER = training.adam(0.1, warmup_steps=3)


@functools.cache
def careful_step(mesh, loss_fn=error):
  """Cached, because compiling takes most of a test's time."""
  step = training.make_train_step(
    loss_fn, OPTIMIZER, training.constant_ema(0.5), mesh
  )
  return training.skip_nonfinite(step, mesh)


def first(mesh, memory=()):
  params = {"w": jnp.ones((512, 256)), "b": jnp.ones(3)}
  state = training.init_state(params, OPTIMIZER, jax.random.key(0), memory)
  return training.shard_state(mesh, state)


def train(mesh, data):
  state, step, found = first(mesh), careful_step(mesh), []
  for batch in data:
    batch = training.shard_batch(mesh, batch)
    with jax.transfer_guard("disallow"):  # nothing waits for the host
      state, metrics = step(state, batch)
    found.append(metrics)
  return state, found


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_rest_goes_on_as_without_it(value):
  mesh = training.make_mesh(4, 2)
  data = batches()
  expected, _ = train(mesh, data[:BAD] + data[BAD + 1 :])
  data[BAD][0, 0] = value
  found, metrics = train(mesh, data)
  for name in ("params", "ema", "opt_state"):
    jax.tree.map(
      np.testing.assert_array_equal,
      getattr(found, name),
      getattr(expected, name),
    )
  assert int(found.step) == int(expected.step) + 1
  assert [float(m["skipped"]) for m in metrics] == [0, 0, 1, 0, 0]
  assert found.params["w"].sharding == expected.params["w"].sharding
  assert not np.isfinite(metrics[BAD]["loss"])


def test_a_gradient_alone_is_enough_and_the_memory_stays():
  def distance(params, key, batch, memory):
    # Its gradient at 0 is 0 / 0.
    loss = jnp.sqrt(jnp.sum((params["b"] - batch[0, 0]) ** 2))
    return loss, {}, memory + 1

  mesh = training.make_mesh(devices=jax.devices()[:1])
  state, step = first(mesh, jnp.zeros(())), careful_step(mesh, distance)
  for value, memory, skipped in ((1.0, 0, 1), (0.0, 1, 0)):
    batch = training.shard_batch(mesh, np.full((1, 1), value, np.float32))
    state, metrics = step(state, batch)
    assert np.isfinite(metrics["loss"])
    assert float(state.memory) == memory
    assert float(metrics["skipped"]) == skipped
  assert int(state.step) == 2


def test_its_metric_is_no_ones_else():
  mesh = training.make_mesh(devices=jax.devices()[:1])
  optimizer = optax.sgd(0.1)
  state = training.init_state(jnp.ones(3), optimizer, jax.random.key(0))
  step = training.make_train_step(
    lambda p, k, b: (jnp.sum(p), {"skipped": 0.0}),
    optimizer,
    training.constant_ema(0.9),
    mesh,
  )
  with pytest.raises(ValueError, match="may not name a metric 'skipped'"):
    step(training.shard_state(mesh, state), jnp.zeros(1))
