"""BEiT-3 on ADE20K: the paper's number, and ours with UPerNet.

  python -m experiments.beit3.table_ade20k --multi --weights \\
    runs/beit3-segment-base runs/beit3-segment-large

Scores workdirs of `segment` on the 2,000 images of the validation split: mean
IoU of one scale ("SS"), or averaged over six and their mirror images ("MS").
The paper's has other heads, see there. Not run on ADE20K.
"""

from collections.abc import Sequence

import tyro

from experiments.beit import measuring, table7
from experiments.beit.table7 import MS, SS
from experiments.beit3 import finetuning
from experiments.beit3.segment import FAMILY
from experiments.cli import command_line
from experiments.results import Claim, Row

TITLE = "BEiT-3 (ADE20K)"
_COMMAND = "python -m experiments.beit3.table_ade20k --multi --weights"
# Configuration -> row, and the paper's mean IoU.
_ROWS = {
  "giant": ("giant (paper: ViT-Adapter, Mask2Former)", "62.0", "62.8"),
  "base": ("base, UPerNet", "", ""),
  "large": ("large, UPerNet", "", ""),
}
_ROW_NAMES = {name: row for name, (row, *_) in _ROWS.items()}
ROWS = (
  *(
    Row(row, {SS: one, MS: several}, f"{_COMMAND} runs/beit3-segment-{name}")
    for name, (row, one, several) in _ROWS.items()
  ),
  Row(
    finetuning.SMALL_ROWS[0], {}, f"{_COMMAND} runs/beit3-segment-mnist5k_seg"
  ),
  Row(finetuning.SMALL_ROWS[1], {}, f"{_COMMAND} runs/segment-pretrained"),
)
CLAIMS = (
  Claim(
    "the larger network segments better",
    (_ROW_NAMES["base"], SS),
    (_ROW_NAMES["large"], SS),
  ),
  finetuning.small_claim("segmentation", SS),
)
NOTE = (
  "\nThe paper's number, of its Table 8, is that of the giant network with "
  "ViT-Adapter and Mask2Former at 896 pixels; neither its weights nor these "
  "heads are here. The command trains it with UPerNet, as all networks here, "
  "so that a number of ours would not compare with the paper's. The rows of "
  "the base and the large network, by a recipe of ours, are not in the paper, "
  "and nor is what is claimed of them. The last two rows are of small networks "
  "that segment scenes of digits.\n"
)


def main(
  weights: Sequence[str],
  multi: bool = False,
  n: int = 0,
  out: str = "runs/beit3-ade20k",
) -> None:
  """Scores networks.

  Args:
    weights: workdirs of `segment`.
    multi: also with several scales and mirror images, which takes about twelve
      times as long.
    n: the first n images of the test split; all if 0.
    out: directory for the results.
  """
  row = lambda config: finetuning.row_of(config, _ROW_NAMES)
  measured = [
    table7.measure(path, multi, n, out, TITLE, row, FAMILY) for path in weights
  ]
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
