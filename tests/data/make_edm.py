"""Writes edm.npz: preconditioning, loss and samplers of NVlabs/edm.

Run in tests/ with the path of that repository, as PROVENANCE.md says.
"""

import ast
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(sys.argv[1])


def definition(path, name, namespace):
  """One function or class of a file whose other imports are not needed."""
  tree = ast.parse((ROOT / path).read_text())
  (node,) = (n for n in tree.body if getattr(n, "name", None) == name)
  node.decorator_list = []
  exec(compile(ast.Module([node], []), path, "exec"), namespace)
  return namespace[name]


class Net(torch.nn.Module):
  """Any function of its inputs will do."""

  def __init__(self, **kwargs):
    super().__init__()

  def forward(self, x, noise, class_labels=None, augment_labels=None):
    return 0.5 * torch.tanh(x) + 0.1 * noise.reshape(-1, 1, 1, 1) * x


def main():
  names = {"torch": torch, "np": np, "Net": Net}
  sampler = definition("generate.py", "edm_sampler", names)
  precond = definition("training/networks.py", "EDMPrecond", names)
  loss = definition("training/loss.py", "EDMLoss", names)
  net = precond(4, 3, model_type="Net")
  random = np.random.RandomState(0)
  draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
  x, noise, normal = draw(3, 3, 4, 4), draw(20, 3, 3, 4, 4), draw(3, 1, 1, 1)
  stored = {"x": x, "noise": noise, "normal": normal}
  sigma = torch.tensor([0.01, 0.7, 40.0])
  stored["denoised"] = net(torch.from_numpy(x), sigma).numpy()
  torch.randn = lambda *args, **kwargs: torch.from_numpy(normal)
  torch.randn_like = lambda x: torch.from_numpy(noise[0])
  stored["loss"] = loss()(net, torch.from_numpy(x)).numpy()
  for name, options in {
    "plain": {},
    "churn": {"S_churn": 4, "S_min": 0.05, "S_max": 50, "S_noise": 1.003},
  }.items():
    later = iter(noise)
    feed = lambda x, later=later: torch.from_numpy(next(later)).double()
    latents = torch.from_numpy(x)
    with torch.no_grad():
      y = sampler(net, latents, randn_like=feed, num_steps=18, **options)
    stored[name] = y.numpy()
  np.savez("data/edm.npz", **stored)


if __name__ == "__main__":
  main()
