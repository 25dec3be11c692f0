"""Trains BEiT with UPerNet or SETR-PUP for segmentation, and scores it.

  python -m experiments.beit.segment base_512 --init \\
    beit_base_patch16_224_pt22k_ft22k.pth --dataset ade20k:ADEChallengeData2016
  python -m experiments.beit.segment mnist5k_seg --init runs/beit-mnist5k

The same command continues a run that was stopped or killed. `base_512` and the
others of `segment_config.PUBLISHED` are the releases' recipes for ADE20K: 160k
steps of 16 crops, on 8 GPUs there; `base_640` reaches a mean IoU of 53.6 (54.2
with several scales). `plain_base_512` is that of the paper's Table 3, with
SETR-PUP. Not run here. `mnist5k_seg` segments scenes of digits:
--init is the workdir of `experiments.beit.pretrain mnist5k`, and without it the
backbone begins at random. A trained or published network is scored by

  python -m experiments.beit.table7 --weights base_640:FILE --multi
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments import results
from experiments.beit import segment_config as configs
from experiments.beit import segment_eval, segment_model
from experiments.beit.segment_config import Segmentation
from experiments.beit.segment_eval import Segmented
from experiments.beit.segment_model import BEIT, Family
from experiments.cli import command_line
from experiments.fitting import fit
from jaxgen import training
from jaxgen.data import save_png
from jaxgen.data.segmentation import UNLABELLED, hsv_to_rgb, pad_to
from jaxgen.metrics import segmentation as metrics


def train(config: Any, family: Family = BEIT) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Args:
    config: of the family's kind.
    family: of the backbone.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl, loss.png; and of the test
    split segmentations.json with the scores, and segmentations.png: images,
    what they show, and what was predicted.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = workdir_of(config, family)
  network = segment_model.make_network(config, family)
  fit(
    config,
    family.experiment,
    workdir,
    partial(segment_model.init_state, config, family=family),
    lambda mesh: training.make_train_step(
      segment_model.make_loss(config, network),
      segment_model.make_optimizer(config),
      training.constant_ema(0.0),
      mesh,
    ),
    keep=("image", "segmentation"),
    batches=segment_model.batches,
  )
  if jax.process_count() == 1:
    score(str(workdir), workdir, family=family)
  return workdir


def workdir_of(config: Segmentation, family: Family = BEIT) -> Path:
  """Where a run leaves its files."""
  return Path(config.workdir or family.workdirs + config.name)


def score(
  weights: str,
  out: Path,
  multi: bool = False,
  n: int = 0,
  family: Family = BEIT,
) -> tuple[Any, metrics.Segmentation, str]:
  """Scores a network on its test split.

  Writes segmentations.json and segmentations.png, or segmentations-multi.json
  and .png.

  Args:
    weights: see `segment_model.load`.
    out: directory for the files.
    multi: several scales and mirror images.
    n: the first n images; all if 0.
    family: of the backbone.

  Returns:
    The network's configuration, the scores, and the protocol in words.
  """
  loaded = segment_model.load(weights, family)
  config = loaded.config
  images = segment_model.open_images(
    config, config.test_split, config.test_scenes
  )
  if 0 < n < len(images):
    images = [images[i] for i in range(n)]
  found = segment_eval.segment_all(loaded, images, multi)
  matrix, shown = segment_eval.judge(found, config.num_classes)
  scores = metrics.segmentation(matrix)
  out.mkdir(parents=True, exist_ok=True)
  path = out / f"segmentations{'-multi' if multi else ''}.png"
  save_png(path, grid(shown))
  protocol = describe(config, len(images), multi)
  content = {
    "mean_iou": scores.mean_iou,
    "mean_accuracy": scores.mean_accuracy,
    "accuracy": scores.accuracy,
    "iou": [None if np.isnan(x) else float(x) for x in scores.iou],
    "protocol": protocol,
    "device": results.device(),
    "commit": results.commit(),
  }
  text = json.dumps(content, indent=2) + "\n"
  path.with_suffix(".json").write_text(text)
  print(
    f"mIoU {100 * scores.mean_iou:.2f}, mAcc {100 * scores.mean_accuracy:.2f}, "
    f"aAcc {100 * scores.accuracy:.2f} ({protocol})"
  )
  print(f"saved: {path}")
  return config, scores, protocol


def describe(config: Segmentation, n: int, multi: bool) -> str:
  """The protocol in words."""
  ratios = ", ".join(map(str, segment_eval.RATIOS))
  scales = f"ratios {ratios}, mirrored too" if multi else "one scale"
  which = "scenes of" if config.test_scenes else "images of"
  begun = f"begun with {Path(config.init).name}" if config.init else ""
  words = (
    f"{n} {which} {config.dataset.partition(':')[0]}:{config.test_split}",
    f"windows of {config.crop_size}, stride {config.stride}",
    scales,
    "head SETR-PUP" if config.head == "setr_pup" else "",
    begun,
  )
  return "; ".join(word for word in words if word)


def grid(shown: list[Segmented]) -> np.ndarray:
  """Columns of an image, its labels in colours, the predicted ones."""
  height, width = (
    max(image.shape[axis] for image, _, _ in shown) + 2 for axis in (0, 1)
  )
  columns = []
  for image, labels, predicted in shown:
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    cells = (image, colours(labels), colours(predicted))
    columns.append(
      np.concatenate([pad_to(cell, height, width, 255) for cell in cells])
    )
  return np.concatenate(columns, axis=1)


def colours(labels: np.ndarray) -> np.ndarray:
  """Labels as colours `[H, W, 3]`, uint8; those that do not count are white.

  Label 0 is grey. The others' hues go round by the golden angle, so that
  neighbours differ.
  """
  k = np.arange(256)
  hue, value = (k * 137.508 / 2) % 180, 255 - 60 * (k % 3)
  table = hsv_to_rgb(np.stack([hue, np.full(256, 200), value], -1))
  table[0], table[UNLABELLED] = 60, 255
  return table[labels]


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
