"""BEiT-3's judgement of NLVR2's statements, as the released README has it.

  python -m experiments.beit3.table_nlvr2 --weights runs/beit3-nlvr2-base
  python -m experiments.beit3.table_nlvr2 --spm beit3.spm --weights \\
    base:beit3_base_patch16_224_nlvr2.pth --dataset nlvr2:ROOT

Not run on NLVR2.
"""

from collections.abc import Sequence

import tyro

from experiments import results
from experiments.beit import measuring
from experiments.beit3 import finetuning
from experiments.beit3.nlvr2 import TASK, judge
from experiments.cli import command_line
from experiments.results import Claim, Result, Row

TITLE = "BEiT-3 on NLVR2 (released README)"
_COMMAND = "python -m experiments.beit3.table_nlvr2 --weights"
# Configuration -> row, dev and test-P: the release's, the paper's of "giant".
_ROWS = {
  "base": ("base", "83.6", "84.4"),
  "base_indomain": ("base, in-domain", "84.6", "85.3"),
  "large": ("large", "88.5", "89.4"),
  "large_indomain": ("large, in-domain", "89.2", "90.0"),
  "giant": ("giant", "91.51", "92.58"),
}
_ROW_NAMES = {name: row for name, (row, *_) in _ROWS.items()}
ROWS = (
  *(
    Row(
      row,
      {"dev": dev, "test-P": test},
      f"{_COMMAND} runs/beit3-nlvr2-{name}",
    )
    for name, (row, dev, test) in _ROWS.items()
  ),
  Row(finetuning.SMALL_ROWS[0], {}, f"{_COMMAND} runs/beit3-nlvr2-shapes"),
  Row(finetuning.SMALL_ROWS[1], {}, f"{_COMMAND} runs/nlvr2-pretrained"),
)
CLAIMS = (
  Claim("a larger network is better", ("base", "test-P"), ("large", "test-P")),
  Claim(
    "pairs of the same domain help: base",
    ("base", "test-P"),
    ("base, in-domain", "test-P"),
  ),
  Claim(
    "pairs of the same domain help: large",
    ("large", "test-P"),
    ("large, in-domain", "test-P"),
  ),
  finetuning.small_claim("visual reasoning", "dev"),
)
NOTE = (
  "\nThe giant network's numbers are the paper's; its weights are not "
  "released. The last two rows are ours: statements about coloured squares, "
  "half of them true.\n"
)


def measure(weights: str, **changes: str | int) -> Result:
  """The accuracy of a network in the public test sets.

  Args:
    weights: see `finetuning.load`.
    **changes: of the configuration: spm, dataset, ...
  """
  timer = results.Timer()
  tuned = finetuning.load(TASK, weights, **changes)
  row = finetuning.row_of(tuned.config, _ROW_NAMES)
  splits = {"dev": "dev", "test-P": "test"}
  if row in finetuning.SMALL_ROWS:
    splits = {"dev": tuned.config.test_split}
  found = {name: judge(tuned, split) for name, split in splits.items()}
  counts = " and ".join(f"{x.n} statements of {n}" for n, x in found.items())
  cells = {}
  for name, x in found.items():
    low, high = x.interval()
    cells[name] = f"{100 * x.top1:.2f} ({100 * low:.2f} to {100 * high:.2f})"
  return Result(
    TITLE,
    row,
    cells,
    {name: 100 * x.top1 for name, x in found.items()},
    finetuning.fields_of(tuned.config),
    f"{counts}; 95% interval (Wilson)",
    timer.seconds(),
  )


def main(
  weights: Sequence[str],
  spm: str = "",
  dataset: str = "",
  batch_size: int = 64,
  out: str = "runs/beit3-nlvr2",
) -> None:
  """Measures networks that judge statements.

  Args:
    weights: workdirs of `nlvr2`, or NAME:FILE, a configuration of it and a
      released .pth file.
    spm: the published beit3.spm, for released files.
    dataset: where NLVR2 is, if not where it was in training.
    batch_size: statements at a time.
    out: directory for the results.
  """
  changes: dict[str, str | int] = {
    "spm": spm,
    "dataset": dataset,
    "batch_size": batch_size,
  }
  measured = [measure(path, **changes) for path in weights]
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
