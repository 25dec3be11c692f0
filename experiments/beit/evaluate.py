"""Evaluates a fine-tuned BEiT on held-out images.

  python -m experiments.beit.evaluate --weights \\
    beit_base_patch16_224_pt22k_ft22kto1k.pth
  python -m experiments.beit.evaluate --weights runs/finetune-mnist5k

Of published weights the network and its image size follow from the file, and
images are cut as in the release: the centre 224 of 256, from 384 on the whole
short side. That one should reach 85.2% top-1 and 97.6% top-5; not run here.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from experiments import results
from experiments.beit import accuracy, model
from experiments.beit.accuracy import Accuracy
from experiments.beit.config import BACKBONE
from experiments.beit.finetune import judge
from experiments.beit.finetune_config import Finetune
from experiments.cli import command_line
from experiments.models import restore_run
from jaxgen import training
from jaxgen.convert import beit_files
from jaxgen.nn.beit import Classifier
from jaxgen.types import PyTree

Weights = tuple[Finetune, Classifier, PyTree]


def load(weights: str) -> Weights:
  """A classifier, as the configuration that would have made it.

  Args:
    weights: a workdir of `finetune`; a released .pth file, or a folder of the
      hub.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: it is no classifier.
  """
  path = Path(weights)
  if (path / "checkpoints").is_dir():
    saved = training.restore_experiment(path / "checkpoints")["experiment"]
    if saved != "beit_finetune":
      raise ValueError(f"{weights} holds {saved} and no fine-tuned classifier")
    config, params = restore_run(path, Finetune)
    return config, model.make_classifier(config), params
  network, params, size = beit_files.read(path)
  if not isinstance(network, Classifier):
    raise ValueError(f"{weights} is no classifier: fine-tune it first")
  fields = {name: getattr(network.backbone, name) for name in BACKBONE}
  config = Finetune(
    name=path.stem,
    image_size=size,
    num_classes=network.num_classes,
    normalize=model.normalize_of(path.name) or "half",
    crop_pct=0.875 if size < 384 else 1.0,
    mean_pool=network.mean_pool,
    batch_size=64,
    **fields,
  )
  return config, network, params


def main(
  weights: str,
  dataset: str = "",
  split: str = "",
  normalize: Literal["", "half", "imagenet"] = "",
  batch_size: int = 0,
  data_dir: str = "",
  out: str = "runs/beit-evaluate",
) -> Accuracy:
  """Measures the accuracy of a classifier.

  Args:
    weights: a workdir of `finetune`, a released .pth file, or a folder of the
      hub.
    dataset: other images than those of its test split.
    split: of those.
    normalize: of the pixels, where the file's name does not tell.
    batch_size: images at a time; that of its training if 0, 64 of published
      weights.
    data_dir: where TFDS keeps data sets.
    out: directory for the result.
  """
  timer = results.Timer()
  config, network, params = load(weights)
  given: dict[str, Any] = {
    "test_dataset": dataset,
    "test_split": split,
    "normalize": normalize,
    "batch_size": batch_size,
    "data_dir": data_dir,
  }
  config = dataclasses.replace(config, **{k: v for k, v in given.items() if v})
  found = judge(config, network, params)
  if jax.process_index() == 0:
    path = Path(out) / f"{config.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    accuracy.save(path, config, timer.seconds(), found)
    print(f"{found}: {path}")
  return found


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
