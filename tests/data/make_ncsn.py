"""Writes ncsn.npz from the original code of NCSN and NCSNv2.

    export PYTHONPATH=tests
    python tests/data/make_ncsn.py v1 NCSN_CHECKOUT
    python tests/data/make_ncsn.py v2 NCSNV2_CHECKOUT

The checkouts are clones at the commits in PROVENANCE.md; torch is needed. Each
call replaces the arrays of its own networks.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from seeded_weights import seeded_state

FOLDER = Path(__file__).parent
FILE = FOLDER / "ncsn.npz"


def config_of(num_classes, sigma_max):
  """The nested configuration that the original code reads."""
  return types.SimpleNamespace(
    device="cpu",
    data=types.SimpleNamespace(
      channels=3, image_size=16, logit_transform=False, rescaled=False
    ),
    model=types.SimpleNamespace(
      ngf=8,
      num_classes=num_classes,
      sigma_begin=sigma_max,
      sigma_end=0.01,
      sigma_dist="geometric",
      normalization="InstanceNorm++",
      nonlinearity="elu",
      spec_norm=False,
    ),
  )


def arrays_of(case, build, labels):
  """Inputs and outputs of a network with seeded weights, and its shapes."""
  torch.manual_seed(0)
  network = build().eval()
  state = network.state_dict()
  shapes = {k: list(v.shape) for k, v in state.items() if k != "sigmas"}
  fresh = [state[name].abs().max().item() for name in shapes]
  weights = seeded_state(shapes, output_axis=0)
  network.load_state_dict(
    {k: torch.from_numpy(v) for k, v in weights.items()}, strict=False
  )
  x = np.random.default_rng(0).standard_normal((2, 16, 16, 3), np.float32)
  with torch.no_grad():
    y = network(torch.from_numpy(x).permute(0, 3, 1, 2), torch.tensor(labels))
  arrays = {
    "x": x,
    "time_cond": np.array(labels),
    "output": y.permute(0, 2, 3, 1).numpy(),
    "shapes": np.array(json.dumps(shapes)),
    "count": np.array(sum(p.numel() for p in network.parameters())),
    "initial_max": np.array(fresh, np.float32),
  }
  if "sigmas" in state:
    arrays["sigmas"] = state["sigmas"].numpy()
  return {f"{case}/{name}": array for name, array in arrays.items()}


def main_v1():
  from models.cond_refinenet_dilated import CondRefineNetDilated

  config = config_of(10, 1.0)
  return arrays_of("ncsn", lambda: CondRefineNetDilated(config), [1, 8])


def main_v2():
  from models.ncsnv2 import NCSNv2, NCSNv2Deeper, NCSNv2Deepest

  arrays = {}
  config = config_of(100, 50.0)
  for case, kind in {
    "ncsnv2": NCSNv2,
    "ncsnv2_deeper": NCSNv2Deeper,
    "ncsnv2_deepest": NCSNv2Deepest,
  }.items():
    arrays |= arrays_of(case, lambda kind=kind: kind(config), [3, 97])
  return arrays


if __name__ == "__main__":
  version, checkout = sys.argv[1:]
  sys.path.insert(0, checkout)
  kept = dict(np.load(FILE)) if FILE.exists() else {}
  np.savez_compressed(FILE, **kept | {"v1": main_v1, "v2": main_v2}[version]())
  print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")
