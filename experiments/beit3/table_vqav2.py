"""BEiT-3's answers to VQAv2's questions, as the released README has them.

  python -m experiments.beit3.table_vqav2 --weights runs/beit3-vqa-base
  python -m experiments.beit3.table_vqav2 --spm beit3.spm --weights \\
    base:beit3_base_patch16_480_vqa.pth --dataset vqav2:ROOT \\
    --submit-split test-dev

The accuracy that is measured here is that in the questions of held-out images.
Answers to those of the test server go to --out, in the server's format
(https://eval.ai/web/challenges/challenge-page/830). Not run on VQAv2.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from experiments import results
from experiments.beit import measuring
from experiments.beit3 import finetuning
from experiments.beit3.vqa import TASK, answer, judge, open_questions
from experiments.cli import command_line
from experiments.results import Claim, Result, Row

TITLE = "BEiT-3 on VQAv2 (released README)"
_COMMAND = "python -m experiments.beit3.table_vqav2 --weights"
# Configuration -> row, test-dev and test-std: the release's, and the paper's of
# "giant".
_ROWS = {
  "base": ("base", "77.65", ""),
  "base_indomain": ("base, in-domain", "78.46", ""),
  "large": ("large", "81.85", ""),
  "large_indomain": ("large, in-domain", "82.53", ""),
  "large_indomain_768": ("large, in-domain, 768, VGQA", "82.97", "83.03"),
  "giant": ("giant", "84.19", "84.03"),
}
_ROW_NAMES = {name: row for name, (row, *_) in _ROWS.items()}
ROWS = (
  *(
    Row(
      row,
      {"test-dev": dev, "test-std": std, "held out": ""},
      f"{_COMMAND} runs/beit3-vqa-{name}",
    )
    for name, (row, dev, std) in _ROWS.items()
  ),
  Row(finetuning.SMALL_ROWS[0], {}, f"{_COMMAND} runs/beit3-vqa-shapes"),
  Row(finetuning.SMALL_ROWS[1], {}, f"{_COMMAND} runs/vqa-pretrained"),
)
CLAIMS = (
  Claim(
    "a larger network is better", ("base", "held out"), ("large", "held out")
  ),
  Claim(
    "pairs of the same domain help: base",
    ("base", "held out"),
    ("base, in-domain", "held out"),
  ),
  Claim(
    "pairs of the same domain help: large",
    ("large", "held out"),
    ("large, in-domain", "held out"),
  ),
  finetuning.small_claim("question answering", "held out"),
)
NOTE = (
  "\nThe test sets are judged by a server alone. Held out are the questions of "
  "1,000 images of val2014; a question without a right answer in the list "
  "counts as wrong. The released networks were trained on most of val2014, so "
  "on most of what is held out here: of them this number says little. The "
  "giant network's numbers are the paper's; its weights are not released. The "
  "last two rows are ours: questions about coloured squares.\n"
)


def measure(weights: str, **changes: str | int) -> Result:
  """The accuracy of a network in held-out questions.

  Args:
    weights: see `finetuning.load`.
    **changes: of the configuration: spm, dataset, ...
  """
  timer = results.Timer()
  tuned = finetuning.load(TASK, weights, **changes)
  accuracy, number = judge(tuned)
  return Result(
    TITLE,
    finetuning.row_of(tuned.config, _ROW_NAMES),
    {"held out": f"{accuracy:.2f}"},
    {"held out": accuracy},
    finetuning.fields_of(tuned.config),
    f"{number} questions of {tuned.config.test_split}",
    timer.seconds(),
  )


def submit(
  weights: str, split: str, out: str | Path, **changes: str | int
) -> Path:
  """Writes the answers to a test set's questions, and returns the file."""
  tuned = finetuning.load(TASK, weights, **changes)
  config = dataclasses.replace(tuned.config, test_split=split)
  source = open_questions(config, split)
  answers, _ = answer(tuned._replace(config=config), source)
  path = Path(out) / f"answers-{config.name}-{split}.json"
  print(f"saved: {finetuning.write_json(path, answers)}")
  return path


def main(
  weights: Sequence[str],
  spm: str = "",
  dataset: str = "",
  submit_split: Literal["", "test-dev", "test"] = "",
  batch_size: int = 64,
  out: str = "runs/beit3-vqav2",
) -> None:
  """Measures networks that answer questions.

  Args:
    weights: workdirs of `vqa`, or NAME:FILE, a configuration of it and a
      released .pth file.
    spm: the published beit3.spm, for released files.
    dataset: where VQAv2 is, if not where it was in training.
    submit_split: also write the answers to this test set's questions.
    batch_size: questions at a time.
    out: directory for answers and results.
  """
  changes: dict[str, str | int] = {
    "spm": spm,
    "dataset": dataset,
    "batch_size": batch_size,
  }
  for path in weights if submit_split else ():
    submit(path, submit_split, out, **changes)
  measured = [measure(path, **changes) for path in weights]
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
