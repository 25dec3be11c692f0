"""What a loss remembers between steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import training

OPTIMIZER = training.adam(0.1)


def loss_fn(params, key, batch, memory):
  """Fits the mean; remembers the sum of all losses, and the last example."""
  losses = (params["mean"] - batch["x"]) ** 2
  memory = {
    "sum": memory["sum"] + jax.lax.stop_gradient(losses.sum()),
    "last": batch["x"][-1],
  }
  return losses.mean(), {}, memory


def start(mesh):
  zero = jnp.zeros(())
  state = training.init_state(
    {"mean": zero},
    OPTIMIZER,
    jax.random.key(0),
    {"sum": zero, "last": zero},
  )
  return training.shard_state(mesh, state)


def run(mesh, state, steps):
  step = training.make_train_step(
    loss_fn, OPTIMIZER, training.constant_ema(0.9), mesh
  )
  losses = []
  for i in steps:
    x = np.random.default_rng(i).standard_normal(16).astype(np.float32)
    state, metrics = step(state, training.shard_batch(mesh, {"x": x}))
    losses.append(16 * float(metrics["loss"]))
  return state, losses, x


@pytest.mark.parametrize("devices", [1, 8])
def test_it_goes_from_step_to_step(devices):
  mesh = training.make_mesh(devices=jax.devices()[:devices])
  state, losses, x = run(mesh, start(mesh), range(5))
  np.testing.assert_allclose(state.memory["sum"], sum(losses), rtol=1e-5)
  assert state.memory["last"] == x[-1]  # of the whole batch, on any mesh


def test_it_is_in_the_checkpoint(tmp_path):
  mesh = training.make_mesh()
  state, _, _ = run(mesh, start(mesh), range(3))
  with training.Checkpoints(tmp_path, {}) as checkpoints:
    checkpoints.restore(start(mesh))
    checkpoints.save(state)
  with training.Checkpoints(tmp_path, {}) as checkpoints:
    restored = checkpoints.restore(start(mesh))
  assert restored.memory["sum"] == state.memory["sum"] > 0
  whole, _, _ = run(mesh, start(mesh), range(6))
  again, _, _ = run(mesh, restored, range(3, 6))
  assert again.memory["sum"] == whole.memory["sum"]
