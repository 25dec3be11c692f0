"""BEiT Table 3: semantic segmentation of ADE20K, networks of ImageNet-1k.

  python -m experiments.beit.segment plain_base_512 --init runs/beit-base \\
    --workdir runs/segment-base
  python -m experiments.beit.table3 --weights runs/segment-base
  python -m experiments.beit.table3 --weights runs/mnist5k_seg \\
    runs/mnist5k_seg-scratch

A network belongs to a row by what its backbone was before: only pre-trained, or
fine-tuned on ImageNet-1k too, or nothing, a row of ours. The head is SETR-PUP,
as in the paper; `mnist5k_seg` has UPerNet unless it is told `--head setr_pup`.
Not run on ADE20K.
"""

from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import results
from experiments.beit import table7
from experiments.beit.segment_config import Config
from experiments.beit.table7 import SS
from experiments.cli import command_line
from experiments.results import Claim, Row
from jaxgen import training

TITLE = "BEiT Table 3 (ADE20K)"
_TRAIN = "python -m experiments.beit.segment plain_base_512 --init "
SCRATCH, BEIT = "from scratch", "BEiT"
INTERMEDIATE = "BEiT + intermediate fine-tuning"
ROWS = (
  Row(BEIT, {SS: "45.6"}, _TRAIN + "runs/beit-base_plain_in1k"),
  Row(INTERMEDIATE, {SS: "47.7"}, _TRAIN + "runs/beit-finetune-base"),
  Row(SCRATCH, {SS: ""}, _TRAIN + "''"),
)
CLAIMS = (
  Claim(
    "intermediate fine-tuning improves segmentation",
    (BEIT, SS),
    (INTERMEDIATE, SS),
  ),
  Claim("pre-training improves segmentation", (SCRATCH, SS), (BEIT, SS)),
)
NOTE = (
  "\nThe head is SETR-PUP; the paper does not say where its auxiliary heads "
  "are or how large, ours are mmsegmentation's. The row from scratch is not in "
  "the paper, whose rows of supervised pre-training and of DINO are left out: "
  "we have no checked copy of their numbers.\n"
)


def row_name(config: Config) -> str:
  """The row that a network belongs to, by what it began with.

  A workdir says what it is; of a released file the name does.

  Raises:
    FileNotFoundError: the workdir is not there any more.
  """
  if not config.init:
    return SCRATCH
  path = Path(config.init)
  if path.suffix == ".pth":
    return INTERMEDIATE if "_ft" in path.name else BEIT
  if not (path / "checkpoints").is_dir():
    raise FileNotFoundError(
      f"{path}, with which the network began, is not there any more to say "
      "whether it was fine-tuned"
    )
  saved = training.restore_experiment(path / "checkpoints")
  return INTERMEDIATE if saved["experiment"] == "beit_finetune" else BEIT


def main(
  weights: Sequence[str], n: int = 0, out: str = "runs/beit-table3"
) -> None:
  """Scores networks.

  Args:
    weights: workdirs of `segment`.
    n: the first n images of the test split; all if 0.
    out: directory for the results.
  """
  found = []
  for name in weights:
    found.append(table7.measure(name, False, n, out, TITLE, row_name))
    print(f"saved: {results.save(found[-1], out)}")
  text = results.table(TITLE, ROWS, found)
  text += results.claims(TITLE, CLAIMS, found) + NOTE
  (Path(out) / "table3.md").write_text(text)
  print(text)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
