"""The same numbers on every mesh, and arrays where the rules put them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from jax.sharding import PartitionSpec as P

from jaxgen import training
from jaxgen.training import parallel


@functools.cache
def run_on(data, fsdp):
  mesh = training.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
  return toy_run.losses(mesh, 12)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (4, 2)])
def test_losses_are_those_of_one_device(data, fsdp):
  _, expected = run_on(1, 1)
  _, found = run_on(data, fsdp)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_large_arrays_are_split_over_fsdp_with_their_moments_and_averages():
  state, _ = run_on(4, 2)
  adam = state.opt_state[1][0]
  for tree in (state.params, state.ema, adam.mu, adam.nu):
    # 8 x 256 is small; 256 x 256 splits its last axis, 256 x 512 its largest.
    assert tree["Dense_0"]["kernel"].sharding.spec == P()
    assert tree["Dense_1"]["kernel"].sharding.spec == P(None, "fsdp")
    assert tree["Dense_2"]["kernel"].sharding.spec == P(None, "fsdp")
    assert tree["Dense_2"]["bias"].sharding.spec == P()
    shards = tree["Dense_2"]["kernel"].addressable_shards
    assert [shard.data.shape for shard in shards] == [(256, 256)] * 8
    halves = {shard.device.id: shard.index[1] for shard in shards}
    assert len(set(map(str, halves.values()))) == 2
  assert state.step.sharding.is_fully_replicated
  assert state.key.sharding.is_fully_replicated


def test_rule_looks_at_sizes_alone():
  mesh = training.make_mesh(4, 2)
  shapes = {
    "odd": jax.ShapeDtypeStruct((301, 303), jnp.float32),
    "conv": jax.ShapeDtypeStruct((3, 3, 256, 128), jnp.float32),
    "small": jax.ShapeDtypeStruct((2, 2), jnp.float32),
  }
  found = training.state_sharding(mesh, shapes)
  assert {name: place.spec for name, place in found.items()} == {
    "odd": P(),
    "conv": P(None, None, "fsdp"),
    "small": P(),
  }


def test_batch_is_split_over_all_devices():
  mesh = training.make_mesh(4, 2)
  batch = {"x": np.arange(16.0).reshape(16, 1), "y": np.zeros(16, np.uint8)}
  found = training.shard_batch(mesh, batch)
  assert found["x"].shape == (16, 1)
  assert found["y"].dtype == np.uint8
  np.testing.assert_array_equal(found["x"], batch["x"])
  assert [s.data.shape for s in found["x"].addressable_shards] == [(2, 1)] * 8
  message = r"axis 0 of x, shape \[9, 1\], .* multiple of 8"
  with pytest.raises(ValueError, match=message):
    training.shard_batch(mesh, {"x": np.zeros((9, 1))})
  with pytest.raises(ValueError, match="axis 0 of t"):
    training.shard_batch(mesh, {"t": np.float32(1)})


@pytest.mark.parametrize(("data", "fsdp"), [(3, 2), (-1, 16), (0, 8), (8, 0)])
def test_a_mesh_that_leaves_devices_out_is_refused(data, fsdp):
  with pytest.raises(ValueError, match="does not use all 8 devices"):
    training.make_mesh(data, fsdp)


def test_step_donates_its_state_and_compiles_once():
  mesh = training.make_mesh(4, 2)
  state, _ = toy_run.make(mesh)
  train_step = toy_run.step_on.__wrapped__(mesh)
  batch = training.shard_batch(mesh, next(toy_run.Batches()))
  compiled = []

  def listen(event, *_, **__):
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  old = state
  for _ in range(3):
    state, _ = train_step(state, batch)
  jax.monitoring.unregister_event_duration_listener(listen)
  assert all(x.is_deleted() for x in jax.tree.leaves(old))
  assert len(compiled) == 1


def test_the_callers_parameters_survive_the_step():
  mesh = training.make_mesh(devices=jax.devices()[:1])
  params, key = jnp.ones(3), jax.random.key(0)
  optimizer = optax.sgd(0.1)
  state = training.init_state(params, optimizer, key)
  train_step = training.make_train_step(
    lambda params, key, batch: jnp.sum(params),
    optimizer,
    training.constant_ema(0.9),
    mesh,
  )
  train_step(training.shard_state(mesh, state), jnp.zeros(1))
  np.testing.assert_array_equal(params, np.ones(3))
  jax.random.normal(key)


def test_a_state_can_be_made_in_place():
  """The recipe in `state_sharding`: never whole on one device."""
  mesh = training.make_mesh(1, 8)
  optimizer = training.adam(0.01)

  def make_state(key):
    params = toy_run.Net().init(key, jnp.zeros((1, toy_run.FEATURES)))
    return training.init_state(params["params"], optimizer, key)

  key = jax.random.key(0)
  places = training.state_sharding(mesh, jax.eval_shape(make_state, key))
  state = jax.jit(make_state, out_shardings=places)(key)
  kernel = state.params["Dense_1"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (256, 32)


@pytest.mark.parametrize(
  ("loss_fn", "message"),
  [
    (lambda p, k, b: p, r"must return a scalar, got \[3\]"),
    (lambda p, k, b: (jnp.sum(p), {"loss": 0.0}), "may not name a metric"),
  ],
)
def test_bad_losses_are_refused(loss_fn, message):
  mesh = training.make_mesh()
  optimizer = optax.sgd(0.1)
  state = training.init_state(jnp.ones(3), optimizer, jax.random.key(0))
  train_step = training.make_train_step(
    loss_fn, optimizer, training.constant_ema(0.9), mesh
  )
  with pytest.raises(ValueError, match=message):
    train_step(training.shard_state(mesh, state), jnp.zeros(8))


SLURM_STEP = {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}


@pytest.mark.parametrize(
  ("environ", "expected"),
  [
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}, None),
    ({"SLURM_NTASKS": "2"}, None),  # sbatch without srun: one process
    (SLURM_STEP, (None, None)),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, (None, None)),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    (
      {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
      (None, None),
    ),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, (None, None)),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "a:1234",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
      },
      (2, 1),
    ),
  ],
)
def test_clusters_are_told_from_single_machines(monkeypatch, environ, expected):
  calls = []
  monkeypatch.setattr(
    parallel.jax.distributed,
    "initialize",
    lambda num_processes, process_id: calls.append((num_processes, process_id)),
  )
  joined = training.initialize_distributed(environ)
  assert joined == (expected is not None)
  assert calls == ([] if expected is None else [expected])
