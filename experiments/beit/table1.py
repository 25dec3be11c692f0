"""BEiT Table 1 and the release: top-1 accuracy on ImageNet-1k.

  python -m experiments.beit.table1 --weights runs/finetune-base_plain_in1k
  python -m experiments.beit.table1 --weights \\
    beit_base_patch16_224_pt22k_ft22kto1k.pth \\
    beit_large_patch16_512_pt22k_ft22kto1k.pth

Evaluates fine-tuned networks, workdirs of `finetune` or released files, on the
50,000 images of the validation split. Not run: a row takes minutes on a GPU,
and the 800 epochs before it days.
"""

from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.beit import measuring
from experiments.cli import command_line
from experiments.results import Claim, Row

TITLE = "BEiT Table 1 (ImageNet-1k)"
_PAPER = {
  "BEiT-B": ("base_plain_in1k", {"top-1": "83.2"}),
  "BEiT-B, 384": ("base_plain_in1k_384", {"top-1": "84.6"}),
  "BEiT-L": ("large_plain_in1k", {"top-1": "85.2"}),
  "BEiT-L, 384": ("large_plain_in1k_384", {"top-1": "86.3"}),
  "22k: BEiT-B": ("base_pt22k", {"top-1": "83.7", "top-5": "96.6"}),
  "22k: BEiT-L": ("large_pt22k", {"top-1": "86.0", "top-5": "97.6"}),
  "22k, labels: BEiT-B": (
    "base_22kto1k",
    {"top-1": "85.2", "top-5": "97.6"},
  ),
  "22k, labels: BEiT-B, 384": (
    "base_22kto1k_384",
    {"top-1": "86.8", "top-5": "98.1"},
  ),
  "22k, labels: BEiT-L": (
    "large_22kto1k",
    {"top-1": "87.4", "top-5": "98.3"},
  ),
  "22k, labels: BEiT-L, 384": (
    "large_22kto1k_384",
    {"top-1": "88.4", "top-5": "98.6"},
  ),
  "22k, labels: BEiT-L, 512": (
    "large_22kto1k_512",
    {"top-1": "88.60", "top-5": "98.66"},
  ),
}
_RELEASED = {
  f"beit_{size}_patch16_{pixels}_pt22k_{tuned}": name
  for size in ("base", "large")
  for pixels in (224, 384, 512)
  for tuned, name in (
    ("ft1k", f"{size}_pt22k"),
    (
      "ft22kto1k",
      f"{size}_22kto1k" + (f"_{pixels}" if pixels > 224 else ""),
    ),
  )
}
ROWS = tuple(
  Row(
    row,
    paper,
    f"python -m experiments.beit.table1 --weights runs/finetune-{name}",
  )
  for row, (name, paper) in _PAPER.items()
)
CLAIMS = (
  Claim("a larger network is better", ("BEiT-B", "top-1"), ("BEiT-L", "top-1")),
  Claim(
    "larger images are better", ("BEiT-B", "top-1"), ("BEiT-B, 384", "top-1")
  ),
  Claim(
    "fine-tuning on the labels of ImageNet-22k helps",
    ("22k: BEiT-B", "top-1"),
    ("22k, labels: BEiT-B", "top-1"),
  ),
)
NOTE = (
  "\nThe first four rows are the paper's: plain vision transformers trained on "
  "ImageNet-1k for 800 epochs without labels. The others are the release's, "
  "with relative position biases and LayerScale, trained on ImageNet-22k for "
  "150 epochs without labels, and then with its labels or not.\n"
)


def row_name(weights: str) -> str:
  """The row that a checkpoint belongs to.

  Raises:
    ValueError: the table has none for it.
  """
  from experiments.beit import evaluate

  name = _RELEASED.get(Path(weights).stem)
  name = name or evaluate.load(weights)[0].name
  for row, (wanted, _) in _PAPER.items():
    if wanted == name:
      return row
  raise ValueError(f"{TITLE} has no row for {name} of {weights}")


def main(
  weights: Sequence[str], batch_size: int = 0, out: str = "runs/beit-table1"
) -> None:
  """Evaluates classifiers.

  Args:
    weights: workdirs of `finetune`, or released .pth files under their names.
    batch_size: images at a time; see `evaluate.main`.
    out: directory for the results.
  """
  measured = [
    measuring.measure(TITLE, row_name(path), path, batch_size)
    for path in weights
  ]
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
