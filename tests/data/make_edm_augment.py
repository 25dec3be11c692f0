"""Writes edm_augment.npz: augmented images and labels of NVlabs/edm.

Run in tests/ with the path of that repository, as PROVENANCE.md says.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

ROOT = Path(sys.argv[1])
P = 0.5


def pipeline():
  """Its class; what it imports stands in here."""
  names = {
    "np": np,
    "torch": torch,
    "misc": types.SimpleNamespace(constant=constant),
    "persistence": types.SimpleNamespace(persistent_class=lambda c: c),
  }
  lines = (ROOT / "training/augment.py").read_text().split("\n")
  kept = (x for x in lines if not x.startswith(("import ", "from ")))
  exec("\n".join(kept), names)
  return names["AugmentPipe"]


def constant(value, shape=None, dtype=torch.float32, device=None):
  value = torch.as_tensor(np.array(value), dtype=dtype)
  return value if shape is None else value.expand(shape)


def main():
  drawn = []

  def keep(draw):
    def wrapped(*args, **kwargs):
      drawn.append(draw(*args, **kwargs))
      return drawn[-1]

    return wrapped

  torch.manual_seed(0)
  images = torch.randn(12, 2, 12, 16).cumsum(2).cumsum(3) / 12
  for name in ("rand", "randn", "randint"):
    setattr(torch, name, keep(getattr(torch, name)))
  options = {"scale": 1, "rotate_frac": 1, "aniso": 1, "translate_frac": 1}
  augment = pipeline()(p=P, xflip=1e8, yflip=1, **options)
  found, labels = augment(images)
  # Each value is drawn, then whether it holds; the axis comes between.
  flat = [x.reshape(-1, 12).numpy() for x in drawn]
  value = lambda i, gate, p=P: flat[i] * (flat[gate] < p)
  nhwc = lambda x: x.permute(0, 2, 3, 1).numpy()
  np.savez(
    "data/edm_augment.npz",
    images=nhwc(images),
    found=nhwc(found),
    labels=labels.numpy(),
    mirror=value(0, 1, 1)[0].astype(np.float32),
    upend=value(2, 3)[0].astype(np.float32),
    zoom=value(4, 5)[0],
    angle=((value(6, 7) * 2 - (flat[7] < P)) * np.pi)[0].astype(np.float32),
    stretch=value(8, 10)[0],
    axis=((flat[9] * 2 - 1) * np.pi * (flat[11] < 0.5))[0].astype(np.float32),
    shift=value(12, 13).T,
  )


if __name__ == "__main__":
  main()
