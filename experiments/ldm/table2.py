"""Latent diffusion's Table 2: text to image, COCO's captions, 256 x 256.

  python -m experiments.ldm.table2 --weights txt2img:model.ckpt \\
    --vocab vocab.txt --n 30000
  python -m experiments.ldm.table2 --weights txt2img:model.ckpt \\
    --vocab vocab.txt --guidance 1 --n 30000

The model has not seen COCO. Image i is drawn for the first caption of image i
of COCO's validation set of 2014, which TFDS has in three splits, and scores
hold against the images of that set. DDIM with 250 steps; scale 1.5 in the row
LDM-KL-8-G, 1 in LDM-KL-8; eta, not stated of either, is 0. Not run: weights and
COCO have to be downloaded.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from experiments import models
from experiments.cli import command_line
from experiments.evaluate import DEFAULT_SCORING, Scoring
from experiments.ldm.batches import load_source
from experiments.ldm.measuring import DEFAULT, Measuring, measure
from experiments.ldm.sample import NOTHING, read_condition
from experiments.results import Claim, Row
from experiments.sampling import Sampling

TITLE = "Latent diffusion Table 2 (COCO)"
_COMMAND = (
  "python -m experiments.ldm.table2 --weights txt2img:model.ckpt "
  "--vocab vocab.txt --n 30000 --guidance "
)
ROWS = (
  Row("LDM-KL-8", {"FID": "23.31", "IS": "20.03 ± 0.33"}, _COMMAND + "1"),
  Row("LDM-KL-8-G", {"FID": "12.63", "IS": "30.29 ± 0.42"}, _COMMAND + "1.5"),
)
CLAIMS = (
  Claim(
    "guidance lowers FID",
    ("LDM-KL-8-G", "FID"),
    ("LDM-KL-8", "FID"),
  ),
  Claim(
    "guidance raises the Inception score",
    ("LDM-KL-8", "IS"),
    ("LDM-KL-8-G", "IS"),
  ),
)
NOTE = ""


def main(
  weights: str,
  vocab: str = "",
  guidance: float = 1.5,
  steps: int = 250,
  dataset: str = "",
  split: str = "val+test+restval",
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  measuring: tyro.conf.OmitArgPrefixes[Measuring] = DEFAULT,
) -> None:
  """Measures one text-to-image model with and without guidance.

  Args:
    weights: a workdir, or NAME:PATH of a released file.
    vocab: bert-base-uncased's vocab.txt, for a released file.
    guidance: the scale; 1 for none.
    steps: of DDIM.
    dataset: TFDS name of images with captions; COCO by default.
    split: of it.
    scoring: the protocol; against the images of that split by default.
    measuring: how many images.
  """
  model = models.load(weights)
  if model.config.condition != "text":
    raise ValueError(
      "Table 2 has text-to-image models, got one with condition "
      f"{model.config.condition!r}"
    )
  config = dataclasses.replace(
    model.config, dataset=dataset or "coco_captions", split=split
  )
  source = load_source(config)
  if len(source) < measuring.n:
    raise ValueError(
      f"{config.dataset}:{split} has {len(source)} images, fewer than n = "
      f"{measuring.n}"
    )
  captions = [source.caption(i) for i in range(measuring.n)]  # type: ignore[attr-defined]
  given = dataclasses.replace(NOTHING, prompt=tuple(captions), vocab=vocab)
  tokens = read_condition(config, given, Path(weights))
  row = ROWS[0] if guidance == 1 else ROWS[1]
  how = Sampling("ddim", steps, "ldm", guidance=guidance)
  rows = {"label": np.asarray(tokens)}
  model = model._replace(config=config)
  measure(TITLE, ROWS, row, model, how, scoring, measuring, rows)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
