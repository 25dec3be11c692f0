"""BEiT Table 11: top-1 accuracy on CIFAR-100.

  python -m experiments.beit.finetune base_plain_cifar100 --init runs/beit-base
  python -m experiments.beit.finetune base_plain_cifar100 \\
    --init runs/finetune-base_plain_in1k --workdir runs/cifar100-intermediate
  python -m experiments.beit.table11 \\
    --weights runs/finetune-base_plain_cifar100 \\
    --intermediate runs/cifar100-intermediate

Not run: the backbone takes days to pre-train.
"""

import tyro

from experiments.beit import measuring
from experiments.cli import command_line
from experiments.results import Claim, Row

TITLE = "BEiT Table 11 (CIFAR-100)"
_COMMAND = "python -m experiments.beit.table11"
ROWS = (
  Row(
    "BEiT-B",
    {"top-1": "90.1"},
    f"{_COMMAND} --weights runs/finetune-base_plain_cifar100",
  ),
  Row(
    "BEiT-B, ImageNet-1k between",
    {"top-1": "91.8"},
    f"{_COMMAND} --intermediate runs/cifar100-intermediate",
  ),
)
CLAIMS = (
  Claim(
    "fine-tuning on ImageNet-1k in between helps",
    ("BEiT-B", "top-1"),
    ("BEiT-B, ImageNet-1k between", "top-1"),
  ),
)
NOTE = ""


def main(
  weights: str = "",
  intermediate: str = "",
  batch_size: int = 0,
  out: str = "runs/beit-table11",
) -> None:
  """Evaluates classifiers.

  Args:
    weights: a workdir of `finetune`, from a network pre-trained without labels.
    intermediate: one from a network that was fine-tuned on ImageNet-1k.
    batch_size: images at a time; that of its training if 0.
    out: directory for the results.
  """
  given = zip(ROWS, (weights, intermediate), strict=True)
  measured = [
    measuring.measure(TITLE, row.name, path, batch_size)
    for row, path in given
    if path
  ]
  if not measured:
    raise ValueError("table11 takes --weights, --intermediate or both")
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
