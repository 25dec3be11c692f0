"""BEiT v2's release: top-1 accuracy on ImageNet-1k after fine-tuning.

  python -m experiments.beit2.table1 --weights \\
    beitv2_base_patch16_224_pt1k_ft21kto1k.pth
  python -m experiments.beit2.table1 --weights runs/finetune-base_1600ep

Evaluates fine-tuned networks, workdirs of `finetune` or released files, on the
50,000 images of the validation split. Not run.
"""

from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.beit import evaluate, measuring
from experiments.cli import command_line
from experiments.results import Claim, Row

TITLE = "BEiT v2 (ImageNet-1k)"
# Row -> configuration of `finetune`, the end of the released file's name, top-1
# and where the release prints it top-5.
_RELEASE = {
  "BEiT v2-B, 300 epochs": ("base_300ep", "pt1k_300e_ft1k", "85.0", ""),
  "BEiT v2-B, 1600 epochs": ("base_1600ep", "pt1k_ft1k", "85.5", ""),
  "BEiT v2-B, then 21k labels": (
    "base_21kto1k",
    "pt1k_ft21kto1k",
    "86.458",
    "97.978",
  ),
  "BEiT v2-L, 300 epochs": ("large_300ep", "pt1k_300e_ft1k", "86.6", ""),
  "BEiT v2-L, 1600 epochs": ("large_1600ep", "pt1k_ft1k", "87.3", ""),
  "BEiT v2-L, then 21k labels": (
    "large_21kto1k",
    "pt1k_ft21kto1k",
    "88.370",
    "98.578",
  ),
}
_COMMAND = "python -m experiments.beit2.table1 --weights runs/finetune-"
ROWS = tuple(
  Row(row, {"top-1": top1, "top-5": top5}, _COMMAND + name)
  for row, (name, _, top1, top5) in _RELEASE.items()
)


def _claim(text: str, smaller: str, larger: str) -> Claim:
  return Claim(text, (smaller, "top-1"), (larger, "top-1"))


CLAIMS = (
  _claim("longer training is better: B", *list(_RELEASE)[:2]),
  _claim("longer training is better: L", *list(_RELEASE)[3:5]),
  _claim("labels of ImageNet-21k help: B", *list(_RELEASE)[1:3]),
  _claim("labels of ImageNet-21k help: L", *list(_RELEASE)[4:]),
)
NOTE = (
  "\nEpochs are those of pre-training on ImageNet-1k without labels. All have "
  "images of 224 pixels.\n"
)


def row_name(weights: str) -> str:
  """The row that a checkpoint belongs to, by its file's or its run's name.

  Raises:
    ValueError: the table has none for it.
  """
  stem = Path(weights).stem
  released = stem.startswith("beitv2_")
  name = stem if released else evaluate.load(weights)[0].name
  for row, (config, end, _, _) in _RELEASE.items():
    size = config.split("_", 1)[0]
    if name == (f"beitv2_{size}_patch16_224_{end}" if released else config):
      return row
  raise ValueError(f"{TITLE} has no row for {name} of {weights}")


def main(
  weights: Sequence[str], batch_size: int = 0, out: str = "runs/beit2-table1"
) -> None:
  """Evaluates classifiers.

  Args:
    weights: workdirs of `finetune`, or released .pth files under their names.
    batch_size: images at a time; see `experiments.beit.evaluate.main`.
    out: directory for the results.
  """
  measured = [
    measuring.measure(TITLE, row_name(path), path, batch_size)
    for path in weights
  ]
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
