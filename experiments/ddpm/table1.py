"""DDPM Table 1: sample quality and likelihood on CIFAR-10.

  python -m experiments.ddpm.table1 --weights runs/cifar10 --n 10000

Prints the paper's two rows of its own models with ours beside them, and saves
JSON, Markdown and a sample grid. The row of the bound is trained by
`python -m experiments.ddpm.train cifar10 --loss bound --workdir
runs/cifar10_bound`. The bound needs T network calls per image:
10,000 CIFAR-10 images take hours on a CPU, minutes on a GPU. Inception score
and FID are columns of the paper that this script does not compute yet.
"""

import dataclasses

import tyro

from experiments import results
from experiments.cli import command_line
from experiments.ddpm import model
from experiments.ddpm.evaluate import bits_per_dim
from experiments.ddpm.sample import Sampling, make_draw
from experiments.plots import save_grid
from experiments.results import Row
from experiments.sampling import generate

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


def main(
  weights: str,
  n: int = 1000,
  batch_size: int = 64,
  seed: int = 0,
  num_samples: int = 64,
  out: str = "runs/table1",
) -> None:
  """Measures one checkpoint.

  Args:
    weights: a workdir, or published weights.
    n: images of each split for the bound; the paper takes all 10,000.
    batch_size: images at a time.
    seed: of the noise.
    num_samples: images of the sample grid.
    out: directory for the results.
  """
  timer = results.Timer()
  config, unet, params = model.load(weights)
  row = ROWS[config.loss == "simple"]
  ours = {}
  for column, split in (
    ("NLL test", config.test_split),
    ("train", config.split),
  ):
    mean, error = bits_per_dim(config, unet, params, split, n, seed, batch_size)
    ours[column] = f"≤ {mean:.3f} ± {error:.3f}"
  draw = make_draw(config, unet, Sampling(steps=config.T))
  images = generate(draw, params, num_samples, seed, batch_size)
  result = results.Result(
    TITLE,
    row.name,
    ours,
    dataclasses.asdict(config),
    f"first {n} images of {config.test_split} and {config.split}, seed {seed}",
    timer.seconds(),
  )
  path = results.save(result, out)
  text = results.table(TITLE, ROWS, [result])
  path.with_suffix(".md").write_text(text)
  save_grid(path.with_suffix(".png"), images, columns=8)
  print(text)
  print(f"saved: {path}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
