"""Writes first_stage_training.npz: how latent diffusion trains first stages.

    python data/make_first_stage_training.py LDM_CHECKOUT TAMING_CHECKOUT

Run in tests/, as PROVENANCE.md says. It also writes first_stage_configs.json,
what the released configurations and the list of models say.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from make_first_stage import (
  shapes_of,
  stand_in,
  vgg16,
  with_seeded_weights,
)

SIZE, STEPS = 16, 4
LISTED = "vq-f4 vq-f4-noattn vq-f8 vq-f8-n256 vq-f16 kl-f4 kl-f8 kl-f16 kl-f32"
NETWORK = {
  "ch": 32,
  "out_ch": 3,
  "ch_mult": (1, 1),
  "num_res_blocks": 0,
  "attn_resolutions": [],
  "attn_type": "none",
  "dropout": 0.0,
  "in_channels": 3,
  "resolution": SIZE,
}
LOSS = {
  "disc_start": 1,
  "disc_num_layers": 2,
  "disc_weight": 0.5,
  "perceptual_weight": 0.0,
}
LOGGED = ("total_loss", "nll_loss", "rec_loss", "d_weight", "g_loss")
LOGGED += ("disc_loss", "logits_real", "logits_fake")
KEPT = ("decoder.conv_out.weight", "loss.discriminator.main.0.weight")
KEPT += ("loss.discriminator.main.3.running_mean",)
KEPT += ("loss.discriminator.main.6.running_var",)


class Module(torch.nn.Module):
  """What the models take from PyTorch Lightning's module."""

  learning_rate, global_step = 3e-4, 0
  device = torch.device("cpu")

  def log(self, name, value, **options):
    self.__dict__.setdefault("logged", {})[name] = float(value)

  def log_dict(self, found, **options):
    for name, value in found.items():
      self.log(name, value)


def train(model, batches):
  """Lightning 1.4's loop: for each batch, one optimizer after the other.

  A step of one needs no gradient of the other's parameters.
  """
  optimizers, _ = model.configure_optimizers()
  owned = [
    [p for group in optimizer.param_groups for p in group["params"]]
    for optimizer in optimizers
  ]
  rows = []
  for step, images in enumerate(batches):
    model.global_step = step
    batch = {"image": torch.from_numpy(images)}
    for index, optimizer in enumerate(optimizers):
      for other, parameters in enumerate(owned):
        for p in parameters:
          p.requires_grad_(other == index)
      loss = model.training_step(batch, step, index)
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
    rows.append({k.removeprefix("train/"): v for k, v in model.logged.items()})
  return rows


def trained(name, model, batches, stored, regularisation):
  stored[f"{name}_shapes"] = shapes_of(model)
  rows = train(model, batches)
  for metric in (*LOGGED, *regularisation):
    stored[f"{name}_{metric}"] = np.float32([row[metric] for row in rows])
  for tensor in KEPT:
    stored[f"{name}_{tensor}"] = model.state_dict()[tensor].numpy()


def released(directory):
  """The released first stages, by name."""
  # The rows of the list of models, in its order.
  rows = re.findall(
    r"^ ?\| f=\d+,[^|]*\|[^|]*\| *(\d+) *\|",
    Path(directory, "README.md").read_text(),
    re.MULTILINE,
  )
  steps = dict(zip(LISTED.split(), map(int, rows), strict=True))
  found = {}
  for path in sorted(Path(directory, "models/first_stage_models").iterdir()):
    content = yaml.safe_load((path / "config.yaml").read_text())
    network = content["model"]["params"]
    autoencoder, loss = network["ddconfig"], network["lossconfig"]["params"]
    assert network["embed_dim"] == autoencoder["z_channels"]
    batch = content["data"]["params"]["batch_size"]
    found[path.name] = {
      "image_size": autoencoder["resolution"],
      "image_channels": autoencoder["out_ch"],
      "num_codes": network.get("n_embed", 0),
      "z_channels": autoencoder["z_channels"],
      "channels": autoencoder["ch"],
      "channel_mult": autoencoder["ch_mult"],
      "num_res_blocks": autoencoder["num_res_blocks"],
      "attention_resolutions": autoencoder["attn_resolutions"],
      "mid_attention": autoencoder.get("attn_type") != "none",
      "kl_weight": loss.get("kl_weight", 1e-6),
      "codebook_weight": loss.get("codebook_weight", 1.0),
      "disc_layers": loss.get("disc_num_layers", 3),
      "disc_weight": loss["disc_weight"],
      "disc_start": loss["disc_start"],
      "batch_size": batch,
      "lr": content["model"]["base_learning_rate"] * batch,
      "steps": steps[path.name],
    }
  return found


def main(ldm, taming):
  configs = json.dumps(released(ldm), indent=1) + "\n"
  Path("data/first_stage_configs.json").write_text(configs)
  sys.path[:0] = [ldm, taming]
  stand_in("pytorch_lightning", LightningModule=Module)
  stand_in("torchvision", models=stand_in("torchvision.models", vgg16=vgg16))
  from taming.modules.losses.lpips import LPIPS

  LPIPS.load_from_pretrained = lambda self: None
  from ldm.models import autoencoder
  from ldm.modules.losses import vqperceptual

  vqperceptual.exists = lambda x: x is not None  # the file does not define it
  torch.randn = lambda *shape: torch.zeros(*shape)  # posteriors give their mean
  random = np.random.RandomState(0)
  batches = random.standard_normal((STEPS, 8, SIZE, SIZE, 3)) / 2
  batches = batches.astype(np.float32)
  stored = {"batches": batches}

  config = {"target": "ldm.modules.losses.LPIPSWithDiscriminator"}
  config["params"] = LOSS | {"kl_weight": 1e-6}
  options = NETWORK | {"z_channels": 4, "double_z": True}
  kl = with_seeded_weights(autoencoder.AutoencoderKL(options, config, 4))
  with torch.no_grad():
    kl.loss.logvar.zero_()
  trained("kl", kl, batches, stored, ("kl_loss",))

  target = "ldm.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"
  config = {"target": target, "params": LOSS | {"n_classes": 20}}
  options = NETWORK | {"z_channels": 3, "double_z": False}
  vq = autoencoder.VQModel(options, config, 20, 3)
  with_seeded_weights(vq)
  names = ("quant_loss", "perplexity", "cluster_usage")
  trained("vq", vq, batches, stored, names)
  np.savez_compressed("data/first_stage_training.npz", **stored)


if __name__ == "__main__":
  main(*sys.argv[1:])
