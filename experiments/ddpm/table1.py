"""DDPM Table 1: sample quality and likelihood on CIFAR-10.

  python -m experiments.ddpm.table1 --weights runs/cifar10 --n 10000

Prints the paper's two rows of its own models with ours beside them, and saves
JSON, Markdown and a sample grid. The row of the bound is trained by
`python -m experiments.ddpm.train cifar10 --loss bound --workdir
runs/cifar10_bound`. The bound and the samples need T network calls per image:
10,000 CIFAR-10 images take hours on a CPU, minutes on a GPU. Inception score
and FID are those of `experiments.evaluate`; the paper takes 50,000 samples.
"""

import dataclasses
from pathlib import Path

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
from experiments.likelihood import bits_per_dim
from experiments.plots import save_grid
from experiments.results import Claim, Row
from experiments.sampling import Sampling

TITLE = "DDPM Table 1"
_COMMAND = "python -m experiments.ddpm.table1 --weights runs/"
ROWS = (
  Row(
    "L, fixed isotropic",
    {
      "IS": "7.67 ± 0.13",
      "FID": "13.51",
      "NLL test": "≤ 3.70",
      "train": "3.69",
    },
    _COMMAND + "cifar10_bound",
  ),
  Row(
    "L_simple",
    {"IS": "9.46 ± 0.11", "FID": "3.17", "NLL test": "≤ 3.75", "train": "3.72"},
    _COMMAND + "cifar10",
  ),
)
NOTE = ""
CLAIMS = (
  Claim(
    "the simple objective gives the better samples (FID)",
    smaller=("L_simple", "FID"),
    larger=("L, fixed isotropic", "FID"),
  ),
  Claim(
    "the bound gives the better likelihood",
    smaller=("L, fixed isotropic", "NLL test"),
    larger=("L_simple", "NLL test"),
  ),
)


def main(
  weights: str,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 1000,
  num_samples: int = 1000,
  sampling_batch: int = 64,
  seed: int = 0,
  out: str = "runs/table1",
) -> None:
  """Measures one checkpoint.

  Args:
    weights: a workdir, or published weights.
    scoring: the protocol of Inception score and FID.
    n: images of each split for the bound; the paper takes all 10,000.
    num_samples: samples for Inception score and FID.
    sampling_batch: images drawn at a time.
    seed: of the noise.
    out: directory for the results.
  """
  timer = results.Timer()
  model = models.load(weights)
  config = model.config
  row = ROWS[config.loss == "simple"]
  ours, values = {}, {}
  for column, split in (
    ("NLL test", config.test_split),
    ("train", config.split),
  ):
    mean, error = bits_per_dim(model, split, n, seed, sampling_batch)
    ours[column] = f"≤ {mean:.3f} ± {error:.3f}"
    values[column] = mean
  directory = Path(out) / row.name / "images"
  how = Sampling(steps=config.T)
  found, images = score_samples(
    model,
    how,
    make_yardstick(config, scoring),
    num_samples,
    directory,
    seed,
    sampling_batch,
  )
  for column in ("IS", "FID"):
    ours[column] = cell(found[column])
    values[column] = found[column].value
  result = results.Result(
    TITLE,
    row.name,
    ours,
    values,
    dataclasses.asdict(config),
    f"bound: first {n} images of {config.test_split} and {config.split}; "
    f"{num_samples} samples, features {found['FID'].protocol.features}; "
    f"seed {seed}",
    timer.seconds(),
    {name: dataclasses.asdict(score) for name, score in found.items()},
  )
  path = results.save(result, out)
  text = results.table(TITLE, ROWS, [result])
  path.with_suffix(".md").write_text(text)
  save_grid(path.with_suffix(".png"), np.stack(images[:64]), columns=8)
  print(text)
  print(f"saved: {path}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
