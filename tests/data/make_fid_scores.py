"""Writes fid_scores.npz: pytorch-fid's and torch-fidelity's scores of PNGs.

Run in tests/, as PROVENANCE.md says.
"""

import re
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, ".")
from random_inception import random_state, random_textures

# torchvision's operators, which no network here uses.
folder = Path(find_spec("torchvision").submodule_search_locations[0])
source = (folder / "_meta_registrations.py").read_text()
for name in set(re.findall(r'register_fake\("torchvision::(\w+)"', source)):
  torch.library.define(f"torchvision::{name}", "(Tensor x) -> Tensor")

import pytorch_fid.inception as port
from PIL import Image
from pytorch_fid.fid_score import calculate_fid_given_paths
from torch_fidelity import calculate_metrics

nets, build = [], port._inception_v3


def build_and_keep(*args, **kwargs):
  nets.append(build(*args, **kwargs))
  return nets[-1]


def random_weights(*args, **kwargs):
  own = nets[-1].state_dict()
  state = random_state({k: v.shape for k, v in own.items() if v.ndim})
  counters = {k: v for k, v in own.items() if not v.ndim}
  return counters | {k: torch.from_numpy(v) for k, v in state.items()}


def main():
  port._inception_v3 = build_and_keep
  port.load_state_dict_from_url = random_weights
  with tempfile.TemporaryDirectory() as root:
    folders = [str(Path(root) / name) for name in ("fake", "real")]
    for path, images in zip(folders, random_textures(), strict=True):
      Path(path).mkdir()
      for i, image in enumerate(images):
        Image.fromarray(image).save(Path(path) / f"{i:03d}.png")
    stored = {
      "pytorch_fid": calculate_fid_given_paths(
        folders, batch_size=7, device="cpu", dims=2048, num_workers=0
      )
    }
    weights = str(Path(root) / "weights.pth")
    torch.save(nets[-1].state_dict(), weights)
    found = calculate_metrics(
      input1=folders[0],
      input2=folders[1],
      cuda=False,
      batch_size=7,
      isc=True,
      fid=True,
      kid=True,
      prc=True,
      samples_shuffle=False,
      kid_subsets=20,
      kid_subset_size=12,
      feature_extractor="inception-v3-compat",
      feature_layer_prc="2048",
      feature_extractor_weights_path=weights,
      save_cpu_ram=True,
      cache=False,
      verbose=False,
    )
  np.savez("data/fid_scores.npz", **stored, **found)
  print(stored, found)


if __name__ == "__main__":
  main()
