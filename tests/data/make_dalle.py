"""Writes dalle_dvae.npz: outputs of DALL-E's discrete autoencoder.

  PYTHONPATH=tests python tests/data/make_dalle.py

with the PyPI package DALL-E 0.1 and its dependency attrs.
"""

from pathlib import Path

import numpy as np
import torch
from dall_e import Decoder, Encoder
from seeded_weights import seeded_state

SIZES = {"n_hid": 64, "vocab_size": 512}


def main() -> None:
  rng = np.random.default_rng(0)
  x = rng.uniform(0.1, 0.9, (2, 3, 24, 16)).astype(np.float32)
  z = rng.dirichlet(np.full(512, 0.02), (2, 3, 2)).astype(np.float32)
  arrays = {"x": x.transpose(0, 2, 3, 1), "z": z}
  inputs = {"encoder": x, "decoder": z.transpose(0, 3, 1, 2)}
  for name, kind in (("encoder", Encoder), ("decoder", Decoder)):
    model = kind(**SIZES)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    state = seeded_state(shapes, 0)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    with torch.no_grad():
      out = model(torch.from_numpy(inputs[name].copy()))
    arrays[name] = out.permute(0, 2, 3, 1).numpy()
    arrays[f"{name}_names"] = np.array(list(shapes))
    padded = [(*s, 0, 0, 0, 0)[:4] for s in shapes.values()]
    arrays[f"{name}_shapes"] = np.array(padded)
    whole = kind()
    print(name, sum(p.numel() for p in whole.parameters()))
  np.savez_compressed(Path(__file__).with_name("dalle_dvae.npz"), **arrays)


if __name__ == "__main__":
  main()
