"""BEiT v2 Table 5: patch aggregation.

  python -m experiments.beit2.table5 base_300ep --tokenizer FILE
  python -m experiments.beit2.table5 mnist5k --seeds 0 1 2

All rows have the same tokenizer; FILE is a released one, and without it one is
trained. Each is pre-trained for 300 epochs, fine-tuned and probed: by the class
token, without aggregation by the mean of the patches. On the small data sets
fine-tuning sees few labels. Not run on ImageNet.
"""

import tyro

from experiments.beit2 import ablation
from experiments.beit2.ablation import (
  PROBED,
  STUDIES,
  TUNED,
  Study,
  Variant,
)
from experiments.cli import command_line
from experiments.results import Claim, Row

TITLE = "BEiT v2 Table 5 (patch aggregation)"
DEFAULT = "depth-2"
VARIANTS = {
  "none": Variant(pretrain=lambda config: {"early_layer": 0}),
  "depth-1": Variant(pretrain=lambda config: {"extra_layers": 1}),
  DEFAULT: Variant(),
  "depth-3": Variant(pretrain=lambda config: {"extra_layers": 3}),
  "earlier-patches": Variant(
    pretrain=lambda config: {"early_layer": config.num_layers // 2}
  ),
  "own-head": Variant(pretrain=lambda config: {"shared_head": False}),
}
_PAPER = {DEFAULT: {TUNED: "85.0", PROBED: "80.1"}}
ROWS = tuple(
  Row(
    name,
    {TUNED: "", PROBED: ""} | _PAPER.get(name, {}),
    f"python -m experiments.beit2.table5 NAME --rows {name}",
  )
  for name in VARIANTS
)


def _claims(text: str, worse: str, better: str) -> tuple[Claim, ...]:
  return tuple(
    Claim(f"{text}: {column}", (worse, column), (better, column))
    for column in (TUNED, PROBED)
  )


CLAIMS = (
  *_claims("patch aggregation helps", "none", DEFAULT),
  *_claims("one block is better than three", "depth-3", "depth-1"),
  *_claims("two blocks are better than three", "depth-3", DEFAULT),
  *_claims("a shared head is better", "own-head", DEFAULT),
)
NOTE = (
  "\nThe numbers and the claims are those of the paper's text; of its table's "
  "other numbers we have no checked copy. Earlier patches are of the block in "
  "the middle.\n"
)


def main(what: Study) -> None:
  """Trains and measures the table."""
  ablation.main(what, TITLE, ROWS, VARIANTS, CLAIMS, NOTE)


if __name__ == "__main__":
  named = {name: (name, what) for name, what in STUDIES.items()}
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
