"""BEiT Table 4: what of the pre-training matters.

  python -m experiments.beit.table4 base_plain_in1k_300ep --tokenizer DALLE
  python -m experiments.beit.table4 mnist5k --tokenizer runs/dvae-mnist5k \\
    --seeds 0 1 2

Each row is pre-trained for 300 epochs in the paper, 800 in the last, and
fine-tuned. On the small data sets fine-tuning sees few labels, or all rows
would be alike. Not run on ImageNet: a row takes days on eight GPUs.
"""

import tyro

from experiments.beit import ablation
from experiments.beit.ablation import COLUMN, Changes, Table
from experiments.cli import command_line
from experiments.results import Claim, Row

TITLE = "BEiT Table 4 (ablation)"
SMALL_LABELS = {"mnist5k": 200, "openmoji64_small": 1000, "openmoji64": 1000}
_PAPER = {
  "beit": ("82.86", "44.65"),
  "random-masks": ("82.77", "42.93"),
  "pixels": ("81.04", "41.38"),
  "pixels-random-masks": ("80.50", "37.09"),
  "recover-all": ("82.59", "40.93"),
  "recover-all-unmasked": ("81.67", "36.73"),
  "longer": ("83.19", "45.58"),
}
VARIANTS: dict[str, Changes] = {
  "beit": {},
  "random-masks": {"mask": "random"},
  "pixels": {"target": "pixels"},
  "pixels-random-masks": {"target": "pixels", "mask": "random"},
  "recover-all": {"recover": "all"},
  "recover-all-unmasked": {"recover": "all", "num_masked": 0},
  "longer": {"longer": 800 / 300},
}
ROWS = tuple(
  Row(
    name,
    {COLUMN: top1, "ADE20K": miou},
    f"python -m experiments.beit.table4 base_plain_in1k_300ep --rows {name}",
  )
  for name, (top1, miou) in _PAPER.items()
)


def _claim(text: str, worse: str, better: str = "beit") -> Claim:
  return Claim(text, (worse, COLUMN), (better, COLUMN))


CLAIMS = (
  _claim("blockwise masks are better than random ones", "random-masks"),
  _claim("visual tokens are better targets than pixels", "pixels"),
  _claim(
    "blockwise masks are better also for pixels",
    "pixels-random-masks",
    "pixels",
  ),
  _claim("recovering masked patches is better than all", "recover-all"),
  _claim(
    "recovering all is better with masks than without",
    "recover-all-unmasked",
    "recover-all",
  ),
  _claim("longer pre-training helps", "beit", "longer"),
)
NOTE = (
  "\nADE20K is the paper's mean IoU. The released code has no ablation: that "
  "pixels are predicted by their squared error is ours.\n"
)


def main(what: Table) -> None:
  """Trains and measures the table."""
  ablation.main(what, TITLE, ROWS, VARIANTS, CLAIMS, NOTE)


if __name__ == "__main__":
  named = ablation.tables(SMALL_LABELS)
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
