"""The model of memory and time against printed numbers and compiled steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks import scaling, scaling_compiled
from jaxgen import training


def test_collectives_of_a_hand_written_program():
  mesh = training.make_mesh(4, 2)
  shape = lambda spec: jax.ShapeDtypeStruct(
    (8, 16), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, spec)
  )
  replicated = jax.sharding.NamedSharding(mesh, P())
  gathered = jax.jit(lambda x: x, out_shardings=replicated)
  text = gathered.lower(shape(P("fsdp"))).compile().as_text()
  # Half of 8 x 16 numbers comes from the other device.
  assert scaling_compiled.sent(text) == (256.0, 0.0)
  summed = jax.jit(lambda x: x.sum(0), out_shardings=replicated)
  text = summed.lower(shape(P(("data", "fsdp")))).compile().as_text()
  # 16 numbers of 4 bytes, in a ring of 8: 2 x 64 x 7 / 8.
  assert scaling_compiled.sent(text) == (0.0, 112.0)


def test_costs_of_a_product():
  """y = x w of 8 numbers by 8 x 16: what is kept is x and tanh's output."""

  def loss(params, key, batch):
    return jnp.mean(jnp.tanh(batch["x"] @ params["w"]))

  f32 = jnp.float32
  workload = scaling.Workload(
    loss,
    {"w": jax.ShapeDtypeStruct((256, 512), f32)},
    {"x": jax.ShapeDtypeStruct((1, 256), f32)},
  )
  example = scaling.per_example(workload)
  # Forward, and backward to w: 2 x 2 x 256 x 512; and a few of 512 elements.
  assert 0 <= example[0] - 4 * 256 * 512 < 10 * 512
  assert 256 * 4 <= example[1] <= (256 + 2 * 512) * 4
  found = scaling.cost(workload, 4, 8, 3, example)
  n = 256 * 512 * 4
  counters = 4 * 4 + 8  # step, two counts of Adam's, a key of two words
  assert abs(found.state - 4 * n / 8) <= counters
  assert (found.whole, found.gradients) == (n, n)
  assert found.gather == n * 7 / 8
  assert found.reduce == n * 7 / 8 + 2 * (n / 8) * 3 / 4
  assert found.flops == 3 * example[0]
  alone = scaling.cost(workload, 1, 1, 3, example)
  assert (alone.whole, alone.gather, alone.reduce) == (0, 0, 0)
  device = scaling.Accelerator(1e12, 1e9, 1e9, 1e8)
  seconds = scaling.Cost(0, 0, 0, 0, 4e11, 1e6, 2e6, 1e6).seconds(device, True)
  np.testing.assert_allclose(seconds, (1.0, 2e-3 + 1e-2))


@pytest.mark.slow
def test_the_published_networks():
  """Parameters of the released files; multiplications of a ViT-L."""
  size = lambda tree: sum(np.prod(x.shape) for x in jax.tree.leaves(tree))
  sd1 = scaling.NETWORKS["SD1's U-Net, 512 x 512"][0]()
  assert size(sd1.shapes) == 859_520_964
  beit = scaling.NETWORKS["BEiT-L, 224 x 224"][0]()
  flops, _ = scaling.per_example(beit)
  # Of 24 blocks 12 C^2 + 2 N C multiplications a token, and the head's; thrice
  # as much with the backward pass, two operations each.
  tokens, width = 197, 1024
  block = 12 * width**2 + 2 * tokens * width
  products = tokens * 24 * block + 196 * (width * 8192 + 768 * width)
  assert 1 <= flops / (6 * products) < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 8])
@pytest.mark.parametrize("name", list(scaling.NARROW))
def test_the_model_against_compiled_steps(name, fsdp):
  found = scaling.check(scaling.NARROW[name](), fsdp, 4)
  ratio = {k: c / m if m else c for k, (m, c) in found.items()}
  assert ratio["state"] == pytest.approx(1, rel=1e-3)
  model, gathered = found["gather"]
  assert gathered == pytest.approx(model, rel=1e-3)
  assert ratio["flops"] == pytest.approx(1, rel=0.15)
  assert 0.5 < ratio["temporary"] < 1.5
