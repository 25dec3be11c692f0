"""BEiT-3's captions of COCO and NoCaps: CIDEr, as the released README.

  python -m experiments.beit3.table_captions --weights runs/beit3-caption-base
  python -m experiments.beit3.table_captions --spm beit3.spm --weights \\
    base:beit3_base_patch16_480_coco_captioning.pth --dataset karpathy:ROOT
  python -m experiments.beit3.table_captions --spm beit3.spm --weights \\
    nocaps_base:beit3_base_patch16_480_nocaps.pth --dataset nocaps:ROOT \\
    --split val

Captions go to --out, one file of each network. Not run on COCO.
"""

from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import results
from experiments.beit import measuring
from experiments.beit3 import finetuning
from experiments.beit3.caption import TASK, judge
from experiments.cli import command_line
from experiments.results import Claim, Result, Row

TITLE = "BEiT-3 captioning (released README)"
_COLUMNS = ("CIDEr", "BLEU-4", "ROUGE-L")
_COMMAND = "python -m experiments.beit3.table_captions --weights"
_NOCAPS = " --dataset nocaps:ROOT --split val"
# Configuration -> row, CIDEr and BLEU-4: the release's, the paper's of "giant".
_ROWS = {
  "base": ("COCO: base", "133.6", ""),
  "base_indomain": ("COCO: base, in-domain", "135.0", ""),
  "large": ("COCO: large", "143.2", ""),
  "giant": ("COCO: giant", "147.6", "44.1"),
  "nocaps_base": ("NoCaps: base", "104.4", ""),
  "nocaps_base_indomain": ("NoCaps: base, in-domain", "105.6", ""),
  "nocaps_large": ("NoCaps: large", "120.2", ""),
}
_ROW_NAMES = {name: row for name, (row, *_) in _ROWS.items()}
ROWS = (
  *(
    Row(
      row,
      {"CIDEr": cider, "BLEU-4": bleu, "ROUGE-L": ""},
      f"{_COMMAND} runs/beit3-caption-{name}"
      + (_NOCAPS if name.startswith("nocaps") else ""),
    )
    for name, (row, cider, bleu) in _ROWS.items()
  ),
  Row(
    finetuning.SMALL_ROWS[0], {}, f"{_COMMAND} runs/beit3-caption-openmoji32"
  ),
  Row(finetuning.SMALL_ROWS[1], {}, f"{_COMMAND} runs/caption-pretrained"),
)
CLAIMS = (
  Claim(
    "a larger network is better",
    ("COCO: base", "CIDEr"),
    ("COCO: large", "CIDEr"),
  ),
  Claim(
    "pairs of the same domain help",
    ("COCO: base", "CIDEr"),
    ("COCO: base, in-domain", "CIDEr"),
  ),
  finetuning.small_claim("captioning", "CIDEr"),
)
NOTE = (
  "\nTrained by cross-entropy alone, without CIDEr as a reward. CIDEr is "
  "CIDEr-D, its weights from the captions of the split itself; METEOR and "
  "SPICE need programs in Java, to which the files of captions can be given. "
  "The giant network's numbers are the paper's, which also has METEOR 32.4 and "
  "SPICE 25.4; its weights are not released. The last two rows are ours, of "
  "small networks that name emoji.\n"
)


def measure(
  weights: str, out: str | Path, spm: str = "", **changes: str | int
) -> Result:
  """Has a network describe the test split, and scores the captions.

  Args:
    weights: see `finetuning.load`.
    out: directory that gets the captions.
    spm: the published beit3.spm, for released files.
    **changes: of the configuration: dataset, test_split, ...

  Raises:
    ValueError: nobody has described the images, as those of NoCaps' "test".
  """
  timer = results.Timer()
  tuned = finetuning.load(TASK, weights, spm=spm, **changes)
  config = tuned.config
  row = finetuning.row_of(config, _ROW_NAMES)
  name = "-".join([config.name, config.dataset.partition(":")[0]])
  path = Path(out) / f"captions-{name.replace('/', '-')}.json"
  found, number = judge(tuned, path)
  if not found:
    raise ValueError(
      f"{config.dataset}:{config.test_split} has no captions to compare with; "
      f"{path} holds the network's"
    )
  found["CIDEr"] = found.pop("CIDEr-D")
  values = {column: found[column] for column in _COLUMNS}
  return Result(
    TITLE,
    row,
    {name: f"{value:.1f}" for name, value in values.items()},
    values,
    finetuning.fields_of(config),
    f"{number} images of {config.test_split}; beam {config.num_beams}, length "
    f"penalty {config.length_penalty}",
    timer.seconds(),
  )


def main(
  weights: Sequence[str],
  spm: str = "",
  dataset: str = "",
  split: str = "",
  data_dir: str = "",
  batch_size: int = 64,
  out: str = "runs/beit3-captions",
) -> None:
  """Scores captioners.

  Args:
    weights: workdirs of `caption`, or NAME:FILE, a configuration of it and a
      released .pth file.
    spm: the published beit3.spm, for released files.
    dataset: other images than those of training.
    split: of those.
    data_dir: where TFDS keeps data sets.
    batch_size: images at a time.
    out: directory for captions and results.
  """
  measured = [
    measure(
      path,
      out,
      spm,
      dataset=dataset,
      test_split=split,
      data_dir=data_dir,
      batch_size=batch_size,
    )
    for path in weights
  ]
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, measured, out)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
