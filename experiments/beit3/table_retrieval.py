"""BEiT-3's retrieval on COCO and Flickr30k, of trained or released networks.

  python -m experiments.beit3.table_retrieval --weights \\
    runs/beit3-retrieval-coco_base
  python -m experiments.beit3.table_retrieval --spm beit3.spm --weights \\
    coco_base:beit3_base_patch16_384_coco_retrieval.pth

The table is that of `retrieval`, which also measures at its end. Not run on
COCO and Flickr30k.
"""

from collections.abc import Sequence

import tyro

from experiments import results
from experiments.beit import measuring
from experiments.beit3 import finetuning
from experiments.beit3.retrieval import (
  CLAIMS,
  NOTE,
  ROWS,
  TASK,
  TITLE,
  measure,
)
from experiments.cli import command_line


def main(
  weights: Sequence[str],
  spm: str = "",
  dataset: str = "",
  data_dir: str = "",
  out: str = "runs/beit3-retrieval",
) -> None:
  """Measures dual encoders.

  Args:
    weights: workdirs of `retrieval`, or NAME:FILE, a configuration of it and a
      released .pth file.
    spm: the published beit3.spm, for released files.
    dataset: where the images are, if not where they were in training.
    data_dir: where TFDS keeps data sets.
    out: directory for the results.
  """
  measured = []
  for path in weights:
    timer = results.Timer()
    tuned = finetuning.load(
      TASK, path, spm=spm, dataset=dataset, data_dir=data_dir
    )
    measured.append(measure(tuned, timer))
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
