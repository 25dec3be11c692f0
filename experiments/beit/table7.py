"""BEiT Table 7: semantic segmentation of ADE20K, networks of ImageNet-22k.

  python -m experiments.beit.table7 --weights base_640:FILE large_640:FILE
  python -m experiments.beit.table7 --weights base_640:FILE --multi

FILE is the released beit_base_patch16_640_pt22k_ft22ktoade20k.pth or that of
the large network; a workdir of `segment` will do, too. Mean IoU over the 2,000
images of the validation split, in windows of 640: of one scale ("SS"), or
averaged over six and their mirror images ("MS").
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import results
from experiments.beit import segment, segment_model
from experiments.beit.segment_config import Config
from experiments.beit.segment_model import BEIT, Family
from experiments.cli import command_line
from experiments.results import Claim, Result, Row
from jaxgen.metrics.segmentation import Segmentation

TITLE = "BEiT Table 7 (ADE20K)"
SS, MS = "mIoU SS", "mIoU MS"
_COMMAND = "python -m experiments.beit.table7 --weights "
ROWS = (
  Row("BEiT-B", {SS: "53.6", MS: "54.2"}, _COMMAND + "base_640:FILE"),
  Row("BEiT-L", {SS: "56.7", MS: "57.0"}, _COMMAND + "large_640:FILE"),
)
CLAIMS = (
  Claim("the larger network segments better", ("BEiT-B", SS), ("BEiT-L", SS)),
)
NOTE = (
  "\nOf the paper's table only the rows of BEiT are shown. The release's own "
  "log of BEiT-B has mean IoU 53.61, mean accuracy 64.82 and accuracy 84.62, "
  "and 54.26, 65.28, 84.9 with several scales. Scenes of digits "
  "(`mnist5k_seg`) stand in the row of BEiT-B.\n"
)


def row_name(config: Config) -> str:
  """The row that a network belongs to."""
  return "BEiT-L" if config.num_layers == 24 else "BEiT-B"


def columns(
  scores: Segmentation, name: str
) -> tuple[dict[str, str], dict[str, float]]:
  """What is printed and what is kept of scores, in percent."""
  values = {
    name: 100 * scores.mean_iou,
    name.replace("mIoU", "mAcc"): 100 * scores.mean_accuracy,
    name.replace("mIoU", "aAcc"): 100 * scores.accuracy,
  }
  return {name: f"{values[name]:.2f}"}, values


def measure(
  weights: str,
  multi: bool,
  n: int,
  out: str,
  title: str,
  row: Callable[[Any], str],
  family: Family = BEIT,
) -> Result:
  """The result of one network.

  Args:
    weights: see `segment_model.load`.
    multi: also of several scales and mirror images.
    n: the first n images; all if 0.
    out: directory for its images.
    title: of the table.
    row: its row for a configuration.
    family: of the backbone.
  """
  timer = results.Timer()
  directory = Path(out) / Path(weights).name
  ours: dict[str, str] = {}
  values: dict[str, float] = {}
  for name, several in ((SS, False), (MS, True)):
    if several and not multi:
      continue
    config, scores, protocol = segment.score(
      weights, directory, several, n, family
    )
    printed, kept = columns(scores, name)
    ours, values = ours | printed, values | kept
  return Result(
    title,
    row(config),
    ours,
    values,
    segment_model.record(config),
    protocol,
    timer.seconds(),
  )


def main(
  weights: Sequence[str],
  multi: bool = False,
  n: int = 0,
  out: str = "runs/beit-table7",
) -> None:
  """Scores networks.

  Args:
    weights: workdirs of `segment`, or NAME:PATH of published files.
    multi: also with several scales and mirror images, which takes about twelve
      times as long.
    n: the first n images of the test split; all if 0.
    out: directory for the results.
  """
  found = []
  for name in weights:
    found.append(measure(name, multi, n, out, TITLE, row_name))
    print(f"saved: {results.save(found[-1], out)}")
  text = results.table(TITLE, ROWS, found)
  text += results.claims(TITLE, CLAIMS, found) + NOTE
  (Path(out) / "table7.md").write_text(text)
  print(text)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
