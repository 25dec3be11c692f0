"""The mesh axis `tensor`: what it splits, and that it changes no number."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_tensor
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen import training
from jaxgen.nn.multiway import MultiwayBlock
from jaxgen.nn.vit import Block
from jaxgen.training import parallel

SCRIPT = Path(toy_tensor.__file__)


def specs(tree, mesh):
  """{path: where it is} of all leaves that are not whole everywhere."""
  found = training.state_sharding(mesh, tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): place.spec
    for path, place in jax.tree_util.tree_leaves_with_path(found)
    if place.spec != P()
  }


def test_first_layers_are_split_by_outputs_and_last_ones_by_inputs():
  mesh = training.make_mesh(4, 1, tensor=2)
  block = {
    "attn/qkv": P(None, "tensor"),
    "attn/proj_out/kernel": P("tensor"),
    "fc1/kernel": P(None, "tensor"),
    "fc1/bias": P("tensor"),
    "fc2/kernel": P("tensor"),
  }
  assert specs(toy_tensor.shapes("vit"), mesh) == {
    f"backbone/block_{i}/{name}": spec
    for i in range(2)
    for name, spec in block.items()
  }

  first, last = P(None, "tensor"), P("tensor")
  found = specs(toy_tensor.shapes("unet"), mesh)
  block = {
    **{f"attn{i}/to_{x}/kernel": first for i in (1, 2) for x in "qkv"},
    **{f"attn{i}/to_out/kernel": last for i in (1, 2)},
    "ff_in/kernel": first,
    "ff_in/bias": last,
    "ff_out/kernel": last,
  }
  blocks = {path.split("/block_0/")[0] for path in found}
  assert len(blocks) == 4  # one on the way down, one between, two up
  assert found == {
    f"{start}/block_0/{name}": spec
    for start in blocks
    for name, spec in block.items()
  }


def test_a_giant_block_of_beit_3_is_split():
  block = MultiwayBlock(
    16, 6144, shared_attention=True, pair_expert=True, sub_norm=False
  )
  x = jax.ShapeDtypeStruct((1, 5, 1408), np.float32)
  init = lambda key, x: block.init(key, x, 2, pair=True)["params"]
  params = jax.eval_shape(init, jax.random.key(0), x)
  mesh = training.make_mesh(2, 1, tensor=4)
  first, last = P(None, "tensor"), P("tensor")
  expected = {
    "attn/qkv_shared/kernel": first,
    "attn/qkv_shared/bias": last,
    "attn/out_shared/kernel": last,
  }
  for way in ("vision", "text", "pair"):
    expert = f"expert_{way}"
    expected[f"{expert}/fc1/kernel"] = first
    expected[f"{expert}/fc1/bias"] = last
    expected[f"{expert}/fc2/kernel"] = last
  assert specs(params, mesh) == expected


def test_fsdp_takes_an_axis_that_tensor_leaves(monkeypatch):
  monkeypatch.setattr(parallel, "MIN_SHARDED_SIZE", 2**10)
  mesh = training.make_mesh(2, 2, tensor=2)
  state = jax.eval_shape(lambda: toy_tensor.initial_state("vit"))
  found = specs(state, mesh)
  for tree in ("params", "ema", "opt_state/0/trace"):
    start = f"{tree}/backbone/block_1"
    assert found[f"{start}/attn/qkv"] == P("fsdp", "tensor")
    assert found[f"{start}/attn/proj_out/kernel"] == P("tensor", "fsdp")
    assert found[f"{start}/fc2/kernel"] == P("tensor", "fsdp")
    assert f"{tree}/lm_head/kernel" not in found  # 32 x 16: small
    # 4 x 4 x 3 x 32, of no rule.
    patches = f"{tree}/backbone/patch_embed/kernel"
    assert found[patches] == P(None, None, None, "fsdp")


def test_what_does_not_divide_stays_whole():
  shapes = {"fc1": {"kernel": jax.ShapeDtypeStruct((4, 9), np.float32)}}
  assert specs(shapes, training.make_mesh(4, 1, tensor=2)) == {}


@pytest.mark.parametrize(
  ("name", "mesh"),
  [
    pytest.param("vit", (8, 1, 1), marks=pytest.mark.slow),
    pytest.param("vit", (4, 2, 1), marks=pytest.mark.slow),
    ("vit", (2, 2, 2)),
    pytest.param("unet", (8, 1, 1), marks=pytest.mark.slow),
    pytest.param("unet", (4, 2, 1), marks=pytest.mark.slow),
    pytest.param("unet", (2, 2, 2), marks=pytest.mark.slow),
  ],
)
def test_numbers_are_those_of_one_device(name, mesh):
  one, expected = toy_tensor.run(name, 1, 1, 1)
  state, found = toy_tensor.run(name, *mesh)
  np.testing.assert_allclose(found, expected, rtol=2e-6)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    jax.device_get(state.params),
    jax.device_get(one.params),
  )


@pytest.mark.parametrize("tensor", [2, 4])
def test_a_block_sums_four_times(tensor):
  """Shoeybi et al. 2019, Fig. 4: two sums of x forward, and two backward.

  So attention and MLP are each worked on in parts: the products take a T-th.
  """
  b, n, c = 8, 16, 64
  devices = jax.devices()[:tensor]
  mesh = training.make_mesh(1, 1, devices, tensor)
  block = Block(8, 4 * c)
  x = jax.ShapeDtypeStruct((b, n, c), jnp.float32)
  apply = lambda params, x: block.apply(params, x, None, (1, n - 1))
  init = lambda key, x: block.init(key, x, None, (1, n - 1))
  params = jax.eval_shape(init, jax.random.key(0), x)
  places = training.state_sharding(mesh, params)
  everywhere = NamedSharding(mesh, P())
  gradient = jax.jit(
    jax.value_and_grad(lambda params, x: jnp.mean(apply(params, x) ** 2)),
    in_shardings=(places, everywhere),
    out_shardings=(everywhere, places),
  )
  program = gradient.lower(params, x).compile(toy_tensor.QUICKLY)
  text = program.as_text()
  sums = re.findall(rf"f32\[{b},{n},{c}\]\S* all-reduce\(", text)
  assert len(sums) == 4 or text.count("all-reduce(") == 4
  # 12 C^2 + 2 N C multiplications a token, thrice with the backward pass, but
  # for the first product's input, which needs no gradient.
  products = 2 * 3 * b * n * (12 * c**2 + 2 * n * c)
  flops = program.cost_analysis()["flops"]
  assert flops < 1.15 * products / tensor


@pytest.mark.parametrize(
  ("before", "after"), [((8, 1, 1), (1, 1, 1)), ((4, 2, 1), (2, 2, 2))]
)
def test_a_checkpoint_moves_to_another_mesh(
  tmp_path, monkeypatch, before, after
):
  monkeypatch.setattr(parallel, "MIN_SHARDED_SIZE", 2**10)
  state = toy_tensor.initial_state("vit").replace(step=np.int32(4))
  blank = jax.tree.map(lambda x: 0 * x, state.params)

  def on(mesh, state):
    data, fsdp, tensor = mesh
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = training.make_mesh(data, fsdp, devices, tensor)
    return training.shard_state(mesh, state), mesh

  with training.Checkpoints(tmp_path, {}) as checkpoints:
    checkpoints.save(on(before, state)[0])
    checkpoints.wait()
    like, mesh = on(after, state.replace(params=blank, ema=blank))
    found = checkpoints.restore(like)
  for which in ("params", "ema", "opt_state"):
    jax.tree.map(
      np.testing.assert_array_equal,
      jax.device_get(getattr(found, which)),
      jax.device_get(getattr(state, which)),
    )
  places = training.state_sharding(mesh, found)
  jax.tree.map(lambda x, place: x.sharding == place or 1 / 0, found, places)
  # Sampling places parameters by the same rules.
  params = training.restore_params(tmp_path, "params", mesh)
  assert jax.tree.map(lambda x: x.sharding, params) == places.params


def test_a_batch_is_split_over_groups():
  mesh = training.make_mesh(2, 2, tensor=2)
  found = training.shard_batch(mesh, np.arange(8.0))
  rows = {}
  for shard in found.addressable_shards:
    rows.setdefault(tuple(np.asarray(shard.data)), []).append(shard.device)
  assert {row: len(devices) for row, devices in rows.items()} == {
    (0.0, 1.0): 2,
    (2.0, 3.0): 2,
    (4.0, 5.0): 2,
    (6.0, 7.0): 2,
  }
  with pytest.raises(ValueError, match="over 4 devices; make the batch a mul"):
    training.shard_batch(mesh, np.zeros(6))


def test_two_processes_of_four_devices_train_and_sample_as_one(tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  environ = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "4",
    "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    "JAX_COORDINATOR_ADDRESS": address,
    "JAX_NUM_PROCESSES": "2",
    "PYTHONPATH": str(Path(__file__).parents[2]),
  }
  processes = [
    subprocess.Popen(
      [sys.executable, str(SCRIPT), str(tmp_path)],
      env=environ | {"JAX_PROCESS_ID": str(index)},
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  errors = [process.communicate(timeout=300)[1] for process in processes]
  for process, error in zip(processes, errors, strict=True):
    assert process.returncode == 0, error
  _, losses = toy_tensor.run("vit", 2, 2, 2)
  for index in range(2):
    found = json.loads((tmp_path / f"{index}.json").read_text())
    np.testing.assert_allclose(found["losses"], losses, rtol=2e-6)
    np.testing.assert_array_equal(found["samples"], toy_tensor.samples())
    assert found["message"] == (
      "the tensor=8 devices that work on the same examples must belong to one "
      "host, got hosts [0, 1]"
    )
