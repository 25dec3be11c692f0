"""Statistics of real images, once, for many evaluations.

  python -m experiments.statistics cifar10:train cifar10-train.npz
  python -m experiments.statistics FOLDER stats.npz --features mnist5k-cnn

The file holds mu and sigma for pytorch-fid, mu_s and sigma_s for ADM's
evaluator, and all that jaxgen's metrics need: give it to
`experiments.evaluate --reference`.
"""

import dataclasses

import tyro

from experiments.cli import command_line
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  dataset_and_split,
  make_extractor,
  reference_statistics,
)
from jaxgen.metrics import files


def main(
  images: tyro.conf.Positional[str],
  out: tyro.conf.Positional[str],
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  image_size: int | None = None,
  data_dir: str = "",
) -> None:
  """Writes the statistics of a set of images.

  Args:
    images: NAME:SPLIT of a TFDS data set, a folder of PNGs, or an .npz.
    out: the .npz to write.
    scoring: the protocol; its reference is `images`.
    image_size: crop and resize a TFDS data set as for training.
    data_dir: where TFDS keeps data sets.
  """
  scoring = dataclasses.replace(scoring, reference=images)
  extractor = make_extractor(scoring, dataset_and_split(images)[0])
  found = reference_statistics(scoring, extractor, image_size, data_dir)
  files.write_statistics(out, found)
  print(f"{found.name}, features of {extractor.name}: {out}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
