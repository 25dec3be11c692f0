"""Writes ddim.npz: the network and the samplers of ermongroup/ddim.

Run in tests/, as PROVENANCE.md says.
"""

import json
import sys
from types import SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, ".")
from functions.denoising import ddpm_steps, generalized_steps
from models.diffusion import Model
from random_inception import random_state

CONFIG = {
  "model": {
    "type": "simple",
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.1,
    "resamp_with_conv": True,
  },
  "data": {"image_size": 16},
  "diffusion": {"num_diffusion_timesteps": 1000},
}
TAU = {
  "uniform": list(range(0, 1000, 100)),
  "quad": [int(s) for s in np.linspace(0, np.sqrt(800), 10) ** 2],
}


def main():
  torch.Tensor.to = lambda x, *args, **kwargs: x  # they ask for a GPU
  spaces = {k: SimpleNamespace(**v) for k, v in CONFIG.items()}
  model = Model(SimpleNamespace(**spaces)).eval()
  shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
  state = random_state(shapes, seed=1)
  model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
  random = np.random.RandomState(2)
  draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
  x, noise = draw(2, 3, 16, 16), draw(10, 2, 3, 16, 16)
  with torch.no_grad():
    output = model(torch.from_numpy(x), torch.tensor([3.0, 777.0]))
  stored = {"shapes": json.dumps(shapes), "output": output.numpy()}

  betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).float()
  # The network's output is scaled so that samples stay finite.
  network = lambda x, t: 0.1 * x
  runs = {"ddpm_noisy": (ddpm_steps, {})}
  for eta in (0.0, 0.2, 1.0):
    runs[f"eta_{eta}"] = (generalized_steps, {"eta": eta})
  for name, (steps, options) in runs.items():
    for grid, tau in TAU.items():
      drawn = iter(noise)
      torch.randn_like = lambda x, drawn=drawn: torch.from_numpy(next(drawn))
      xs, _ = steps(torch.from_numpy(x), tau, network, betas, **options)
      stored[f"{name}_{grid}"] = np.stack([xs[i].numpy() for i in (1, 5, -1)])
  np.savez("data/ddim.npz", **stored)


if __name__ == "__main__":
  main()
