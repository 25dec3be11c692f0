"""BEiT-3's top-1 accuracy on ImageNet-1k, as the released README has it.

  python -m experiments.beit3.table_imagenet --weights \\
    runs/beit3-classify-base
  python -m experiments.beit3.table_imagenet --weights \\
    base:beit3_base_patch16_224_in1k.pth

Evaluates networks on the 50,000 images of the validation split. Not run.
"""

from collections.abc import Sequence

import tyro

from experiments import results
from experiments.beit import measuring
from experiments.beit3 import finetuning
from experiments.beit3.classify import TASK, judge
from experiments.cli import command_line
from experiments.results import Claim, Result, Row

TITLE = "BEiT-3 (ImageNet-1k)"
_COMMAND = "python -m experiments.beit3.table_imagenet --weights"
# Configuration -> row, top-1 and top-5: the release's, the paper's of "giant".
_ROWS = {
  "base": ("base", "85.4", "97.6"),
  "base_indomain": ("base, in-domain", "85.4", "97.6"),
  "large": ("large", "87.6", "98.3"),
  "large_indomain": ("large, in-domain", "87.5", "98.3"),
  "giant": ("giant, 336 (paper: class names as texts)", "89.6", ""),
}
_ROW_NAMES = {name: row for name, (row, *_) in _ROWS.items()}
ROWS = (
  *(
    Row(
      row,
      {"top-1": top1, "top-5": top5},
      f"{_COMMAND} runs/beit3-classify-{name}",
    )
    for name, (row, top1, top5) in _ROWS.items()
  ),
  Row(
    finetuning.SMALL_ROWS[0], {}, f"{_COMMAND} runs/beit3-classify-openmoji32"
  ),
  Row(finetuning.SMALL_ROWS[1], {}, f"{_COMMAND} runs/classify-pretrained"),
)
CLAIMS = (
  Claim("a larger network is better", ("base", "top-1"), ("large", "top-1")),
  finetuning.small_claim("classification", "top-1"),
)
NOTE = (
  "\nThe image half alone, at 224 pixels where nothing else is said. The giant "
  "network's number is the paper's, whose network finds the name of the class "
  "nearest to an image and was fine-tuned on ImageNet-21k before; the command "
  "gives it a layer of classes, as the others have, so that a number of ours "
  "would not compare with it. Its weights are not released. The last two rows "
  "are ours: groups of emoji.\n"
)


def measure(weights: str, **changes: str | int) -> Result:
  """The accuracy of a network on the test split.

  Args:
    weights: see `finetuning.load_params`.
    **changes: of the configuration: test_dataset, batch_size, ...
  """
  timer = results.Timer()
  config, params = finetuning.load_params(TASK, weights, **changes)
  found = judge(config, params)
  split = f"{config.test_dataset or config.dataset}:{config.test_split}"
  return Result(
    TITLE,
    finetuning.row_of(config, _ROW_NAMES),
    measuring.columns(found),
    measuring.values(found),
    finetuning.fields_of(config),
    f"{found.n} images of {split}; 95% interval (Wilson)",
    timer.seconds(),
  )


def main(
  weights: Sequence[str],
  dataset: str = "",
  data_dir: str = "",
  batch_size: int = 64,
  out: str = "runs/beit3-imagenet",
) -> None:
  """Measures classifiers.

  Args:
    weights: workdirs of `classify`, or NAME:FILE, a configuration of it and a
      released .pth file.
    dataset: other images than those of its test split.
    data_dir: where TFDS keeps data sets.
    batch_size: images at a time.
    out: directory for the results.
  """
  measured = [
    measure(
      path, test_dataset=dataset, data_dir=data_dir, batch_size=batch_size
    )
    for path in weights
  ]
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
