"""BEiT v2 Table 4: the tokenizer's decoder and its codes.

  python -m experiments.beit2.table4 base_300ep --vqkd.teacher clip:FILE
  python -m experiments.beit2.table4 mnist5k --seeds 0 1 2

Each row is a tokenizer; a network is pre-trained with its tokens, without patch
aggregation, as in the paper for 300 epochs, and fine-tuned and probed. On the
small data sets fine-tuning sees few labels. Not run on ImageNet.
"""

from collections.abc import Callable

import tyro

from experiments.beit2 import ablation
from experiments.beit2.ablation import (
  COLUMNS,
  DISTANCE,
  PROBED,
  STUDIES,
  TUNED,
  USED,
  Study,
  Variant,
)
from experiments.cli import command_line
from experiments.results import Claim, Row

TITLE = "BEiT v2 Table 4 (tokenizers)"


def _variant(name: str, vqkd: Callable[..., dict[str, int]]) -> Variant:
  return Variant(name, vqkd, lambda config: {"early_layer": 0})


VARIANTS = {
  "decoder-1": _variant("decoder-1", lambda config: {"decoder_layers": 1}),
  "decoder-3": _variant("decoder-3", lambda config: {"decoder_layers": 3}),
  "wide-codes": _variant(
    "wide-codes",
    lambda config: {"decoder_layers": 1, "code_dim": 4 * config.code_dim},
  ),
  "few-codes": _variant(
    "few-codes",
    lambda config: {"decoder_layers": 1, "num_codes": config.num_codes // 4},
  ),
}
_USED = {"decoder-1": "100%", "decoder-3": "97%"}
ROWS = tuple(
  Row(
    name,
    dict.fromkeys(COLUMNS, "") | {USED: _USED.get(name, "")},
    f"python -m experiments.beit2.table4 NAME --rows {name}",
  )
  for name in VARIANTS
)
CLAIMS = (
  Claim(
    "a deeper decoder predicts the teacher better",
    ("decoder-3", DISTANCE),
    ("decoder-1", DISTANCE),
  ),
  Claim(
    "a deeper decoder uses less codes",
    ("decoder-3", USED),
    ("decoder-1", USED),
  ),
  *(
    Claim(
      f"a deeper decoder makes worse targets: {column}",
      ("decoder-3", column),
      ("decoder-1", column),
    )
    for column in (TUNED, PROBED)
  ),
  Claim(
    "fewer channels of a code: more codes are used",
    ("wide-codes", USED),
    ("decoder-1", USED),
  ),
)
NOTE = (
  "\nThe paper's claims are its text's; of its table's numbers we have no "
  "checked copy. Codes used are the release's. Wide codes have four times the "
  "channels, few codes are a quarter as many; both are ours, with a decoder of "
  "one block.\n"
)


def main(what: Study) -> None:
  """Trains and measures the table."""
  ablation.main(what, TITLE, ROWS, VARIANTS, CLAIMS, NOTE)


if __name__ == "__main__":
  named = {name: (name, what) for name, what in STUDIES.items()}
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
