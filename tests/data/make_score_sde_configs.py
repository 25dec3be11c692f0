"""Writes score_sde_configs.json: what the released configurations say.

  python make_score_sde_configs.py DIRECTORY

DIRECTORY is a checkout of yang-song/score_sde_pytorch. Its configurations are
Python files that need ml_collections and torch, of which these stand-ins do.
"""

import importlib
import json
import sys
import types
from pathlib import Path

NAMES = {
  "vp/cifar10_ddpm": "vp/ddpm/cifar10",
  "vp/cifar10_ddpm_unconditional": "vp/ddpm/cifar10_unconditional",
  "vp/cifar10_ddpm_continuous": "vp/ddpm/cifar10_continuous",
  "vp/bedroom_ddpm": "vp/ddpm/bedroom",
  "vp/church_ddpm": "vp/ddpm/church",
  "vp/celebahq_ddpm": "vp/ddpm/celebahq",
  "ve/ffhq_1024_ncsnpp_continuous": "ve/ffhq_ncsnpp_continuous",
}


class ConfigDict(dict):
  __getattr__ = dict.__getitem__
  __setattr__ = dict.__setitem__


def fields(released) -> dict:
  return {
    "batch_size": released.training.batch_size,
    "steps": released.training.n_iters - 1,
    "continuous": released.training.continuous,
    "reduction": "mean" if released.training.reduce_mean else "sum",
    "snr": released.sampling.snr,
    "image_size": released.data.image_size,
    "flip": released.data.random_flip,
    "T": released.model.num_scales,
    "dropout": released.model.dropout,
    "ema_decay": released.model.ema_rate,
    "lr": released.optim.lr,
    "warmup_steps": released.optim.warmup,
    "clip_norm": released.optim.grad_clip,
  }


def main(directory: str) -> None:
  torch = types.ModuleType("torch")
  torch.device = str
  torch.cuda = types.SimpleNamespace(is_available=lambda: False)
  collections = types.ModuleType("ml_collections")
  collections.ConfigDict = ConfigDict
  sys.modules |= {"torch": torch, "ml_collections": collections}
  sys.path.insert(0, directory)
  found = {}
  for path in sorted(Path(directory, "configs").glob("*v*/**/*.py")):
    name = str(path.relative_to(Path(directory, "configs")).with_suffix(""))
    if "/ncsn/" in name or "/ncsnv2/" in name:
      continue
    module = importlib.import_module("configs." + name.replace("/", "."))
    released = module.get_config()
    ours = {theirs: ours for ours, theirs in NAMES.items()}.get(name, name)
    found[ours] = fields(released)
    if name.startswith("ve"):
      found[ours]["sigma_max"] = released.model.sigma_max
  target = Path(__file__).with_name("score_sde_configs.json")
  target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main(sys.argv[1])
