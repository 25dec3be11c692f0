"""Writes rand_augment.npz: operations, boxes and targets of timm.

  python tests/data/make_rand_augment.py TIMM

with TIMM the folder of the unpacked wheel; only three of its files are run.
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageOps

OPERATIONS = {
  "auto_contrast": "AutoContrast",
  "equalize": "Equalize",
  "invert": "Invert",
  "rotate": "Rotate",
  "posterize": "Posterize",
  "solarize": "Solarize",
  "solarize_add": "SolarizeAdd",
  "color": "Color",
  "contrast": "Contrast",
  "brightness": "Brightness",
  "sharpness": "Sharpness",
  "shear_x": "ShearX",
  "shear_y": "ShearY",
  "translate_x": "TranslateXRel",
  "translate_y": "TranslateYRel",
}
LEVELS = (0.0, 3.7, 9.0, 10.0)
FILL = (124, 116, 104)


def module(name: str):
  path = Path(sys.argv[1]) / "timm/data" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  found = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(found)
  return found


def picture() -> np.ndarray:
  """Smooth, so that interpolation matters and files stay small."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (5, 6, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize((19, 14), Image.BICUBIC))


def posterize(img: Image.Image, bits: int) -> Image.Image:
  """PIL's, which until Pillow 12 made images black with 0 bits."""
  return ImageOps.posterize(img, bits) if bits else img.point(lambda level: 0)


def main() -> None:
  timm = module("auto_augment")
  timm.ImageOps = SimpleNamespace(**(vars(ImageOps) | {"posterize": posterize}))
  image = picture()
  arrays = {"image": image, "levels": np.array(LEVELS), "fill": np.array(FILL)}
  options = {"img_mean": FILL, "interpolation": Image.BICUBIC}
  for increasing in (True, False):
    names = timm.rand_augment_choices("", increasing)
    assert len(names) == len(OPERATIONS)
    for ours, name in OPERATIONS.items():
      name = name + "Increasing" * (name + "Increasing" in names)
      assert name in names
      for sign in (1, -1):
        timm._randomly_negate = lambda v, sign=sign: sign * v
        done = [
          timm.AugmentOp(name, 1.0, level, options)(Image.fromarray(image))
          for level in LEVELS
        ]
        key = f"{ours}_{'inc' if increasing else 'std'}_{sign}"
        arrays[key] = np.stack([np.asarray(pil) for pil in done])

  mixup = module("mixup")
  height, width = 5, 8
  lams = np.array([0.0, 0.1, 0.5, 0.75, 0.9, 0.99, 1.0])
  y, x = np.mgrid[:height, :width].reshape(2, -1)
  boxes = []
  for lam in lams:
    centers = iter((y, x))
    mixup.np.random.randint = lambda *a, size, c=centers: next(c)
    boxes.append(mixup.rand_bbox((3, height, width), lam, count=y.size))
  arrays |= {
    "lams": lams,
    "centers": np.stack([y, x]),
    "boxes": np.array(boxes),
  }
  labels = torch.tensor([3, 0, 2, 2])
  targets = [mixup.mixup_target(labels, 4, lam, 0.1).numpy() for lam in lams]
  arrays |= {"labels": labels.numpy(), "targets": np.stack(targets)}
  path = Path(__file__).with_name("rand_augment.npz")
  np.savez_compressed(path, **arrays)
  print(path.stat().st_size)


if __name__ == "__main__":
  main()
