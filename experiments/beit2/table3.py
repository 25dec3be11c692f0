"""BEiT v2 Table 3: networks fine-tuned on ImageNet-1k, on other images.

  python -m experiments.beit2.table3 --weights \\
    beitv2_large_patch16_224_pt1k_ft1k.pth runs/finetune-base_1600ep

ImageNet-A, ImageNet-R and ImageNet-Sketch are TFDS's, whose labels are those of
ImageNet-1k. The first two have images of 200 classes: among these the network
chooses, as in the released evaluation. Not run.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import results
from experiments.beit import evaluate, measuring
from experiments.beit.batches import labels_of
from experiments.beit.finetune import judge
from experiments.beit.finetune_config import Finetune
from experiments.cli import command_line
from experiments.results import Claim, Result, Row
from jaxgen import data

TITLE = "BEiT v2 Table 3 (robustness)"
SETS = {
  "ImageNet-A": "imagenet_a",
  "ImageNet-R": "imagenet_r",
  "ImageNet-Sketch": "imagenet_sketch",
}
BASE, LARGE = "BEiT v2-B", "BEiT v2-L"
_COMMAND = "python -m experiments.beit2.table3 --weights runs/finetune-"
ROWS = (
  Row(BASE, dict.fromkeys(SETS, ""), _COMMAND + "base_1600ep"),
  Row(
    LARGE,
    dict.fromkeys(SETS, "") | {"ImageNet-R": "69.94"},
    _COMMAND + "large_1600ep",
  ),
)
CLAIMS = tuple(
  Claim(
    f"the larger network is more robust: {name}", (BASE, name), (LARGE, name)
  )
  for name in SETS
)
NOTE = (
  "\nTop-1 accuracy. The number is the release's, which prints no other; the "
  "paper's are left out, of which we have no checked copy.\n"
)


def row_name(config: Finetune) -> str:
  """The row of a network."""
  return LARGE if config.width >= 1024 else BASE


def measure(weights: str, batch_size: int = 0, data_dir: str = "") -> Result:
  """Evaluates a classifier on all three.

  Args:
    weights: see `evaluate.load`.
    batch_size: images at a time; that of its training if 0.
    data_dir: where TFDS keeps data sets.
  """
  timer = results.Timer()
  config, network, params = evaluate.load(weights)
  ours: dict[str, str] = {}
  values: dict[str, float] = {}
  words = []
  for name, dataset in SETS.items():
    here = dataclasses.replace(
      config,
      test_dataset=dataset,
      test_split="test",
      batch_size=batch_size or config.batch_size,
      data_dir=data_dir or config.data_dir,
    )
    source = data.load(dataset, "test", here.data_dir or None)
    classes = sorted(set(labels_of(source).tolist()))
    found = judge(here, network, params, classes)
    low, high = found.interval()
    values[name] = 100 * found.top1
    ours[name] = f"{values[name]:.2f} ({100 * low:.2f} to {100 * high:.2f})"
    words.append(f"{found.n} images of {len(classes)} classes of {dataset}")
  fields = dataclasses.asdict(config) | {"init": Path(config.init).name}
  protocol = f"{'; '.join(words)}; 95% intervals (Wilson)"
  row, seconds = row_name(config), timer.seconds()
  return Result(TITLE, row, ours, values, fields, protocol, seconds)


def main(
  weights: Sequence[str],
  batch_size: int = 0,
  data_dir: str = "",
  out: str = "runs/beit2-table3",
) -> None:
  """Evaluates classifiers.

  Args:
    weights: workdirs of `finetune`, or released .pth files.
    batch_size: images at a time; see `experiments.beit.evaluate.main`.
    data_dir: where TFDS keeps data sets.
    out: directory for the results.
  """
  measured = [measure(path, batch_size, data_dir) for path in weights]
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
