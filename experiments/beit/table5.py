"""BEiT Table 5: LayerScale and relative position biases in the backbone.

  python -m experiments.beit.table5 base_plain_in1k_300ep --tokenizer DALLE
  python -m experiments.beit.table5 mnist5k --tokenizer runs/dvae-mnist5k

Each row is pre-trained for 300 epochs and fine-tuned; the paper's ADE20K column
is with UPerNet. Not run on ImageNet.
"""

import tyro

from experiments.beit import ablation
from experiments.beit.ablation import COLUMN, Changes, Table
from experiments.beit.config import PLUS
from experiments.beit.table4 import SMALL_LABELS
from experiments.cli import command_line
from experiments.results import Claim, Row

TITLE = "BEiT Table 5 (architecture)"
_PAPER = {
  "vit": ("82.86", "44.86"),
  "vit-layerscale": ("83.00", "45.43"),
  "vit-layerscale-rpb": ("83.22", "45.70"),
}
_PLAIN: Changes = {
  "absolute_positions": True,
  "relative_positions": "none",
  "layer_scale": None,
}
VARIANTS: dict[str, Changes] = {
  "vit": _PLAIN,
  "vit-layerscale": {**_PLAIN, "layer_scale": PLUS["layer_scale"]},
  "vit-layerscale-rpb": PLUS,
}
ROWS = tuple(
  Row(
    name,
    {COLUMN: top1, "ADE20K": miou},
    f"python -m experiments.beit.table5 base_plain_in1k_300ep --rows {name}",
  )
  for name, (top1, miou) in _PAPER.items()
)
CLAIMS = (
  Claim("LayerScale helps", ("vit", COLUMN), ("vit-layerscale", COLUMN)),
  Claim(
    "relative position biases help",
    ("vit-layerscale", COLUMN),
    ("vit-layerscale-rpb", COLUMN),
  ),
)
NOTE = "\nADE20K is the paper's mean IoU.\n"


def main(what: Table) -> None:
  """Trains and measures the table."""
  ablation.main(what, TITLE, ROWS, VARIANTS, CLAIMS, NOTE)


if __name__ == "__main__":
  named = ablation.tables(SMALL_LABELS)
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
