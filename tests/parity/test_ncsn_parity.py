"""NCSN and NCSNv2 against the original code's outputs.

The arrays are described in tests/data/PROVENANCE.md.
"""

import json
from pathlib import Path

import jax
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
  "ncsn_deeper": NCSN(8, (1, 2, 2, 4, 4), num_scales=100),
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
  print(case, np.sqrt(errors), np.abs(theirs).max(axes))
  assert np.sqrt(errors).max() <= 2e-5
  assert sum(p.size for p in jax.tree.leaves(params)) == ARRAYS[f"{case}/count"]
