"""Writes ldm_configs.json: what the released configurations say.

  python make_ldm_configs.py DIRECTORY

DIRECTORY is a checkout of CompVis/latent-diffusion. Needs PyYAML.
"""

import json
import sys
from pathlib import Path

import yaml

# Ours: the release's, below DIRECTORY.
FILES = {
  "celebahq256": "configs/latent-diffusion/celebahq-ldm-vq-4.yaml",
  "ffhq256": "configs/latent-diffusion/ffhq-ldm-vq-4.yaml",
  "churches256": "configs/latent-diffusion/lsun_churches-ldm-kl-8.yaml",
  "bedrooms256": "configs/latent-diffusion/lsun_bedrooms-ldm-vq-4.yaml",
  "cin256": "configs/latent-diffusion/cin256-v2.yaml",
  "cin256_f8": "configs/latent-diffusion/cin-ldm-vq-f8.yaml",
  "txt2img": "configs/latent-diffusion/txt2img-1p4B-eval.yaml",
  "text2img256": "models/ldm/text2img256/config.yaml",
  "super_resolution": "models/ldm/bsr_sr/config.yaml",
  "layout2img": "models/ldm/layout2img-openimages256/config.yaml",
  "semantic_synthesis256": "models/ldm/semantic_synthesis256/config.yaml",
  "inpainting_big": "models/ldm/inpainting_big/config.yaml",
}


def fields(released: dict) -> dict:
  """The values that training and networks depend on."""
  model, data = released["model"]["params"], released.get("data", {})
  conditioner = model["cond_stage_config"]
  if isinstance(conditioner, dict):
    conditioner = conditioner.get("params", {})
  autoencoder = model["first_stage_config"]["params"]
  schedule = model.get("scheduler_config", {"params": {}})["params"]
  warmup = schedule.get("warm_up_steps", 0)
  return {
    "base_learning_rate": released["model"]["base_learning_rate"],
    "batch_size": data.get("params", {}).get("batch_size"),
    "linear_start": model["linear_start"],
    "linear_end": model["linear_end"],
    "timesteps": model["timesteps"],
    "loss_type": model.get("loss_type", "l2"),
    "image_size": model["image_size"],
    "channels": model["channels"],
    "scale_factor": model.get("scale_factor", 1.0),
    "scale_by_std": model.get("scale_by_std", False),
    "warm_up_steps": warmup[0] if isinstance(warmup, list) else warmup,
    "unet": model["unet_config"]["params"],
    "conditioner": conditioner,
    "codes": autoencoder.get("n_embed", 0),
    "attention": autoencoder["ddconfig"].get("attn_type", "vanilla"),
    "autoencoder": autoencoder["ddconfig"],
  }


def main(directory: str) -> None:
  found = {
    name: fields(yaml.safe_load(Path(directory, path).read_text()))
    for name, path in FILES.items()
  }
  target = Path(__file__).with_name("ldm_configs.json")
  target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main(sys.argv[1])
