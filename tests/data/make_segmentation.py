"""Writes segmentation.npz and segmentation_configs.json.

  python make_segmentation.py DIRECTORY

DIRECTORY is a checkout of microsoft/unilm. Needs opencv-python-headless.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

# Ours: the release's, below DIRECTORY.
V1, V2 = (
  f"{folder}/semantic_segmentation/configs/beit/upernet/upernet_beit_"
  for folder in ("beit", "beit2")
)
FILES = {
  "base_512_mim": V1 + "base_12_512_slide_160k_ade20k_pt.py",
  "base_512": V1 + "base_12_512_slide_160k_ade20k_pt2ft.py",
  "base_640": V1 + "base_12_640_slide_160k_ade20k_pt2ft.py",
  "large_512": V1 + "large_24_512_slide_160k_ade20k_pt2ft.py",
  "large_640": V1 + "large_24_640_slide_160k_ade20k_pt2ft.py",
  "v2_base_512_mim": V2 + "base_12_512_slide_160k_ade20k.py",
  "v2_base_512": V2 + "base_12_512_slide_160k_21ktoade20k.py",
  "v2_large_512_mim": V2 + "large_24_512_slide_160k_ade20k.py",
  "v2_large_512": V2 + "large_24_512_slide_160k_21ktoade20k.py",
}


def run(path: Path) -> dict:
  """The names that a configuration, a Python file of literals, defines."""
  names: dict = {}
  exec(path.read_text(), {}, names)
  return names


def fields(path: Path) -> dict:
  """The values that training and test depend on."""
  released = run(path)
  bases = [run(path.parent / base) for base in released["_base_"]]
  base = {name: value for one in bases for name, value in one.items()}
  backbone = released["model"]["backbone"]
  optimizer, schedule = released["optimizer"], released["lr_config"]
  # Two devices of eight images are the batch of 16.
  updates = released["optimizer_config"]["update_interval"]
  steps = base["runner"]["max_iters"] // updates
  kinds = {step["type"]: step for step in base["train_pipeline"]}
  return {
    "crop_size": released["crop_size"][0],
    "stride": released["model"]["test_cfg"]["stride"][0],
    "width": backbone["embed_dim"],
    "num_layers": backbone["depth"],
    "num_heads": backbone["num_heads"],
    "layer_scale": backbone["init_values"],
    "drop_path": backbone["drop_path_rate"],
    "levels": backbone["out_indices"],
    "absolute_positions": backbone["use_abs_pos_emb"],
    "num_classes": released["model"]["decode_head"]["num_classes"],
    "auxiliary_weight": base["model"]["auxiliary_head"]["loss_decode"][
      "loss_weight"
    ],
    "lr": optimizer["lr"],
    "b1": optimizer["betas"][0],
    "b2": optimizer["betas"][1],
    "weight_decay": optimizer["weight_decay"],
    "layer_decay": optimizer["paramwise_cfg"]["layer_decay_rate"],
    "power": schedule["power"],
    "final_lr": schedule["min_lr"],
    "warmup_ratio": schedule["warmup_ratio"],
    "warmup_steps": schedule["warmup_iters"] // updates,
    "steps": steps,
    "batch_size": 8 * released["data"]["samples_per_gpu"] * updates,
    "long": kinds["Resize"]["img_scale"][0],
    "short": kinds["Resize"]["img_scale"][1],
    "ratios": kinds["Resize"]["ratio_range"],
    "max_share": kinds["RandomCrop"]["cat_max_ratio"],
    "mean": base["img_norm_cfg"]["mean"],
    "std": base["img_norm_cfg"]["std"],
  }


def pixels() -> dict[str, np.ndarray]:
  """OpenCV's colours and sizes."""
  rng = np.random.default_rng(0)
  rgb = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
  rgb[:4] = rng.integers(0, 5, (4, 20, 3))
  rgb[4:6] = rgb[4:6, :, :1]
  hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
  arrays = {"rgb": rgb, "hsv": hsv}
  arrays["back"] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
  for width, height in ((31, 40), (13, 9)):
    size = (width, height)
    name = f"{height}x{width}"
    arrays[f"linear_{name}"] = cv2.resize(
      rgb, size, interpolation=cv2.INTER_LINEAR
    )
    arrays[f"nearest_{name}"] = cv2.resize(
      rgb[..., 0], size, interpolation=cv2.INTER_NEAREST
    )
  return arrays


def main(directory: str) -> None:
  here = Path(__file__).parent
  np.savez_compressed(here / "segmentation.npz", **pixels())
  found = {name: fields(Path(directory, path)) for name, path in FILES.items()}
  text = json.dumps(found, indent=1) + "\n"
  (here / "segmentation_configs.json").write_text(text)


if __name__ == "__main__":
  main(sys.argv[1])
