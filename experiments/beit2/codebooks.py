"""BEiT v2's tokenizers: how many of the codes are in use.

  python -m experiments.beit2.codebooks \\
    --weights runs/vqkd-mnist5k runs/vqkd-mnist5k_3
  python -m experiments.beit2.codebooks --weights runs/vqkd-base_3_clip

Evaluates workdirs of `train_vqkd` on their test splits: the share of codes that
occur, their perplexity, and how far the features predicted are from the
teacher's. The release prints the first. Not run on ImageNet.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import results
from experiments.beit2 import train_vqkd, vqkd_model
from experiments.beit2.config import Tokenizer
from experiments.cli import command_line
from experiments.results import Claim, Result, Row

TITLE = "BEiT v2 tokenizers"
USED, PERPLEXITY, DISTANCE = "codes used", "perplexity", "1 - cos"
_RELEASE = {
  "1 block, CLIP": ("base_1_clip", "100%"),
  "3 blocks, CLIP": ("base_3_clip", "97%"),
  "1 block, DINO": ("base_1_dino", "100%"),
}
_COMMAND = "python -m experiments.beit2.codebooks --weights runs/vqkd-"
ROWS = tuple(
  Row(row, {USED: used, PERPLEXITY: "", DISTANCE: ""}, _COMMAND + name)
  for row, (name, used) in _RELEASE.items()
)
_ONE, _THREE = list(_RELEASE)[:2]
CLAIMS = (
  Claim(
    "a deeper decoder predicts the teacher better",
    (_THREE, DISTANCE),
    (_ONE, DISTANCE),
  ),
  Claim("a deeper decoder uses less codes", (_THREE, USED), (_ONE, USED)),
)
NOTE = (
  "\nRows are named by the decoder's blocks and the teacher. The small "
  "tokenizers, whose teachers are small classifiers, stand in CLIP's rows.\n"
)


def row_name(config: Tokenizer) -> str:
  """The row that a tokenizer belongs to.

  Raises:
    ValueError: the table has none for it.
  """
  blocks = (
    "1 block"
    if config.decoder_layers == 1
    else f"{config.decoder_layers} blocks"
  )
  kind = "DINO" if config.teacher.startswith("dino:") else "CLIP"
  row = f"{blocks}, {kind}"
  if row not in _RELEASE:
    raise ValueError(f"{TITLE} has no row {row} for {config.name}")
  return row


def measure(workdir: Path) -> Result:
  """The result of one training."""
  timer = results.Timer()
  config = vqkd_model.restore(workdir)[0]
  row = row_name(config)
  found = train_vqkd.show(workdir, train_vqkd.load_teacher(config))
  kind, _, path = config.teacher.partition(":")
  teacher = f"{kind} {Path(path).name}".strip() if path else Path(kind).name
  protocol = (
    f"{config.steps} steps of {config.batch_size}, {config.num_codes} codes, "
    f"teacher {teacher}; {found['tokens']:.0f} tokens of "
    f"{config.dataset}:{config.test_split}"
  )
  return Result(
    TITLE,
    row,
    {
      USED: f"{found['used']:.1%}",
      PERPLEXITY: f"{found['perplexity']:.1f}",
      DISTANCE: f"{found['rec']:.4f}",
    },
    {
      USED: found["used"],
      PERPLEXITY: found["perplexity"],
      DISTANCE: found["rec"],
    },
    dataclasses.asdict(config) | {"teacher": teacher},
    protocol,
    timer.seconds(),
  )


def main(weights: Sequence[str], out: str = "runs/beit2-codebooks") -> None:
  """Measures tokenizers.

  Args:
    weights: workdirs of `train_vqkd`.
    out: directory for the results.
  """
  measured = [measure(Path(workdir)) for workdir in weights]
  for result in measured:
    print(f"saved: {results.save(result, out)}")
  text = results.table(TITLE, ROWS, measured)
  text += results.averages(TITLE, measured)
  text += results.claims(TITLE, CLAIMS, measured) + NOTE
  (Path(out) / "table.md").write_text(text)
  print(text)
  print(f"saved: {Path(out) / 'table.md'}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
