"""NCSN and NCSNv2 against the original code's outputs.

The arrays are described in tests/data/PROVENANCE.md.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_weights import seeded_state

from jaxgen.convert import ncsn
from jaxgen.nn.ncsn import NCSN

ARRAYS = np.load(Path(__file__).parents[1] / "data" / "ncsn.npz")

V2 = NCSN(8, conditional=False, sigma_max=50.0, num_scales=100)
NETWORKS = {
  "ncsn": NCSN(8),
  "ncsnv2": V2,
  "ncsnv2_deeper": V2.clone(channel_mult=(1, 2, 2, 4, 4)),
  "ncsnv2_deepest": V2.clone(channel_mult=(1, 2, 2, 2, 4, 4)),
}


def seeded(case):
  state = seeded_state(json.loads(str(ARRAYS[f"{case}/shapes"])), 0)
  if f"{case}/sigmas" in ARRAYS:
    state["sigmas"] = ARRAYS[f"{case}/sigmas"]
  return state


@pytest.mark.parametrize("case", NETWORKS)
def test_equals_the_original(case):
  network, state = NETWORKS[case], seeded(case)
  params = ncsn.from_pytorch(state, network)
  ours = jax.jit(network.apply)(
    {"params": params}, ARRAYS[f"{case}/x"], ARRAYS[f"{case}/time_cond"]
  )
  theirs = ARRAYS[f"{case}/output"]
  axes = (1, 2, 3)
  errors = ((ours - theirs) ** 2).sum(axes) / (theirs**2).sum(axes)
  assert np.sqrt(errors).max() <= 2e-5
  assert sum(p.size for p in jax.tree.leaves(params)) == ARRAYS[f"{case}/count"]
  back = ncsn.to_pytorch(params, network)
  assert {*back} == {*state}
  for name, tensor in state.items():
    np.testing.assert_allclose(
      back[name], tensor, rtol=1e-6 if name == "sigmas" else 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ncsn", "ncsnv2"])
def test_starts_as_the_original_does(case):
  """Uniform weights and biases of the same bounds, scales near 1, zeros."""
  network = NETWORKS[case]
  # lazily and with this generator: the quickest to compile
  params = network.lazy_init(
    jax.random.key(0, impl="rbg"),
    *(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 16, 16, 3), (2,))),
  )["params"]
  ours = ncsn.to_pytorch(params, network)
  shapes = json.loads(str(ARRAYS[f"{case}/shapes"]))
  bounds = ARRAYS[f"{case}/initial_max"]
  for (name, shape), bound in zip(shapes.items(), bounds, strict=True):
    largest = np.abs(ours[name]).max()
    if name.endswith(("gamma", "alpha", "embed.weight")):
      assert largest == pytest.approx(bound, abs=0.08), name
    elif name.endswith("beta"):
      assert largest == bound == 0, name
    elif np.prod(shape) > 400:  # so many entries come close to the bound
      assert largest == pytest.approx(bound, rel=0.03), name
    elif len(shape) == 1:  # a bias has its kernel's bound
      kernel = shapes[name.replace("bias", "weight")]
      assert largest <= (kernel[0] / np.prod(kernel)) ** 0.5, name
      assert largest > 0, name
  if case == "ncsn":  # gamma, alpha and beta of every level
    table = ours["normalizer.embed.weight"]
    assert not table[:, 16:].any()
    assert np.abs(table[:, :16] - 1).max() < 0.1
