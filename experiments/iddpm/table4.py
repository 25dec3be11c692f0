"""Improved DDPM Table 4: class-conditional samples of ImageNet-64.

  python -m experiments.iddpm.table4 --weights imagenet64_cond_270M_250K.pt \\
    --n 50000
  python -m experiments.iddpm.table4 --weights runs/digits --n 500

FID, precision and recall of samples drawn in 250 steps (the section counts of
"250"), each with a random label. The paper takes 50,000 samples. Another data
set's model is one trained with labels, such as that of

  python -m experiments.iddpm.train mnist5k --num-classes 10 \\
    --workdir runs/digits

Not run on ImageNet.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from experiments import models, results
from experiments.cli import command_line
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  cell,
  make_yardstick,
  score_samples,
)
from experiments.plots import save_grid
from experiments.results import Claim, Row
from experiments.sampling import Sampling

TITLE = "Improved DDPM Table 4 (class-conditional)"
COLUMNS = ("FID", "precision", "recall")
_COMMAND = "python -m experiments.iddpm.table4 --weights "
_TRAIN = "python -m experiments.iddpm.train imagenet64_cond --channels 128"
ROWS = tuple(
  Row(name, dict(zip(COLUMNS, numbers, strict=True)), command)
  for name, numbers, command in (
    ("BigGAN-deep", ("4.06", "0.86", "0.59"), "not a diffusion model"),
    ("small (100M)", ("6.92", "0.77", "0.72"), _TRAIN),
    (
      "large (270M)",
      ("2.92", "0.82", "0.71"),
      _COMMAND + "imagenet64_cond_270M_250K.pt",
    ),
  )
)
CLAIMS = (
  Claim(
    "the larger model has the lower FID",
    ("large (270M)", "FID"),
    ("small (100M)", "FID"),
  ),
)
NOTE = (
  "\nAnother data set's model stands in the row that `--row` names, the small "
  "one by default.\n"
)
DEFAULT = Sampling(grid="250")


def main(
  weights: str,
  how: tyro.conf.OmitArgPrefixes[Sampling] = DEFAULT,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 1000,
  sampling_batch: int = 64,
  seed: int = 0,
  row: Literal["small", "large"] | None = None,
  out: str = "runs/iddpm-table4",
) -> None:
  """Samples and scores one class-conditional checkpoint.

  Args:
    weights: a workdir, or a released file.
    how: the sampler.
    scoring: the protocol.
    n: samples.
    sampling_batch: images drawn at a time.
    seed: of the samples.
    row: of the table; by the network's width if it is not given.
    out: directory for images and results.
  """
  timer = results.Timer()
  model = models.load(weights)
  config = model.config
  if not model.num_classes or model.low_res_size:
    raise ValueError(
      "Table 4 needs a class-conditional model (--num-classes), got one that "
      f"is told {model.num_classes} classes"
    )
  row = row or ("large" if config.channels >= 192 else "small")
  name = next(r.name for r in ROWS if r.name.startswith(row))
  found, images = score_samples(
    model,
    how,
    make_yardstick(config, scoring),
    n,
    Path(out) / "images",
    seed,
    sampling_batch,
  )
  ours = {c: cell(found[c]) for c in COLUMNS if c in found}
  result = results.Result(
    TITLE,
    name,
    ours,
    {c: found[c].value for c in ours},
    dataclasses.asdict(config),
    f"{n} samples, {how.sampler}, grid {how.grid}, seed {seed}, features "
    f"{found['FID'].protocol.features}",
    timer.seconds(),
    {metric: dataclasses.asdict(score) for metric, score in found.items()},
  )
  path = results.save(result, out)
  text = results.table(TITLE, ROWS, [result])
  path.with_suffix(".md").write_text(text)
  save_grid(path.with_suffix(".png"), np.stack(images[:64]), columns=8)
  print(text)
  print(f"saved: {path}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
