"""Writes ldm_unet.npz: the U-Net of CompVis/latent-diffusion.

Run in tests/, as PROVENANCE.md says.
"""

import re
import sys
import types
from pathlib import Path

import numpy as np
import torch
import yaml

CHECKOUTS = [Path(path) for path in sys.argv[1:3]]
sys.path[:0] = [str(CHECKOUTS[0]), "."]
# The network asks it whether its context_dim is such a list.
omegaconf = types.ModuleType("omegaconf")
omegaconf.listconfig = types.ModuleType("omegaconf.listconfig")
omegaconf.listconfig.ListConfig = type("ListConfig", (), {})
sys.modules["omegaconf"] = omegaconf
sys.modules["omegaconf.listconfig"] = omegaconf.listconfig

from ldm.modules.attention import CrossAttention, SpatialTransformer
from ldm.modules.diffusionmodules.openaimodel import AttentionBlock, UNetModel
from random_ldm import (
  CASES,
  TRANSFORMERS,
  random_inputs,
  transformer_inputs,
  transformer_state,
)
from random_openai import random_state


def to_torch(x):
  x = torch.from_numpy(x)
  return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def to_numpy(x):
  return x.permute(0, 2, 3, 1).contiguous().numpy()


def shapes(net):
  return {k: tuple(p.shape) for k, p in net.state_dict().items()}


def load(net, state):
  net.load_state_dict({k: torch.from_numpy(x) for k, x in state.items()})
  return net.eval()


def heads(net):
  """Of every attention, or first attention of a transformer, in order."""
  found = []
  for name, module in net.named_modules():
    if isinstance(module, AttentionBlock):
      found.append(module.num_heads)
    if isinstance(module, CrossAttention) and re.search(r"0\.attn1$", name):
      found.append(module.heads)
  return found


def configurations():
  for checkout in CHECKOUTS:
    for path in sorted(checkout.rglob("*.yaml")):
      params = yaml.safe_load(path.read_text())["model"]["params"]
      if "unet_config" in params:
        options = params["unet_config"]["params"]
        options.pop("use_checkpoint", None)
        yield str(path.relative_to(checkout)), options


def main():
  torch.set_grad_enabled(False)
  stored = {}
  for name, (num_heads, depth, has_context) in TRANSFORMERS.items():
    x, context = transformer_inputs()
    net = SpatialTransformer(
      64,
      num_heads,
      64 // num_heads,
      depth,
      context_dim=24 * has_context or None,
    )
    net = load(net, transformer_state(shapes(net)))
    out = net(to_torch(x), to_torch(context) if has_context else None)
    stored[f"transformer/{name}"] = to_numpy(out)
  for name, (options, _, _) in CASES.items():
    net = UNetModel(**options)
    names = shapes(net)
    stored[f"{name}/shapes"] = np.array([f"{k} {v}" for k, v in names.items()])
    net = load(net, random_state(names))
    given = {k: to_torch(x) for k, x in random_inputs(name).items()}
    x = given.pop("x")
    if "concat" in given:
      x = torch.cat([x, given.pop("concat")], dim=1)
    stored[f"{name}/out"] = to_numpy(net(x, given.pop("t"), **given))
  for name, options in configurations():
    for extra in (0, 5) if name.endswith("v1-inference.yaml") else (0,):
      options = options | {"in_channels": options["in_channels"] + extra}
      with torch.device("meta"):
        net = UNetModel(**options)
      size = sum(p.numel() for p in net.parameters())
      print(f"{name} with {extra} more channels: {size:_} parameters")
    stored[f"heads/{name}"] = np.array(heads(net))
  np.savez_compressed("data/ldm_unet.npz", **stored)


if __name__ == "__main__":
  main()
