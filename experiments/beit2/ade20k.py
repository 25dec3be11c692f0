"""BEiT v2 on ADE20K: semantic segmentation with UPerNet.

  python -m experiments.beit.segment v2_base_512_mim \\
    --init beitv2_base_patch16_224_pt1k.pth --workdir runs/segment-base
  python -m experiments.beit2.ade20k --weights runs/segment-base \\
    v2_large_512:beitv2_large_patch16_224_pt1k_ft21ktoade20k.pth

Scores workdirs of `experiments.beit.segment`, whose configurations "v2_..." are
the release's, or released networks, on the 2,000 images of the validation
split. --init of a training may also be a workdir of `experiments.beit2`. Not
run.
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

TITLE = "BEiT v2 (ADE20K)"
# Row -> configuration, mean IoU.
_RELEASE = {
  "BEiT v2-B": ("v2_base_512_mim", "53.1"),
  "BEiT v2-B, 21k labels": ("v2_base_512", "53.5"),
  "BEiT v2-L": ("v2_large_512_mim", "56.7"),
  "BEiT v2-L, 21k labels": ("v2_large_512", "57.54"),
}
_COMMAND = "python -m experiments.beit2.ade20k --weights "
ROWS = tuple(
  Row(row, {SS: iou}, f"{_COMMAND}{name}:FILE")
  for row, (name, iou) in _RELEASE.items()
)
_B, _B21, _L, _L21 = _RELEASE
CLAIMS = (
  Claim("the larger network segments better", (_B, SS), (_L, SS)),
  Claim("labels of ImageNet-21k help: B", (_B, SS), (_B21, SS)),
  Claim("labels of ImageNet-21k help: L", (_L, SS), (_L21, SS)),
)
NOTE = (
  "\nThe release's numbers; the paper's Table 1 has the first and the third. "
  "Of BEiT v2-L after ImageNet-21k the release also prints mean accuracy 68.78 "
  "and accuracy 86.22.\n"
)


def row_name(config: Config) -> str:
  """The row that a network belongs to.

  Raises:
    ValueError: the table has none for it.
  """
  for row, (name, _) in _RELEASE.items():
    if name == config.name:
      return row
  raise ValueError(f"{TITLE} has no row for {config.name}")


def main(
  weights: Sequence[str],
  multi: bool = False,
  n: int = 0,
  out: str = "runs/beit2-ade20k",
) -> None:
  """Scores networks.

  Args:
    weights: workdirs of `segment`, or NAME:PATH of published files.
    multi: also with several scales and mirror images.
    n: the first n images of the test split; all if 0.
    out: directory for the results.
  """
  found = []
  for name in weights:
    found.append(table7.measure(name, multi, n, out, TITLE, row_name))
    print(f"saved: {results.save(found[-1], out)}")
  text = results.table(TITLE, ROWS, found)
  text += results.claims(TITLE, CLAIMS, found) + NOTE
  (Path(out) / "table.md").write_text(text)
  print(text)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
