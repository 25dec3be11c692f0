"""Improved DDPM Table 3: its likelihoods beside other models'.

  python -m experiments.iddpm.table3 \\
    --weights imagenet64_uncond_vlb_100M_1500K.pt
  python -m experiments.iddpm.table3 --weights runs/iddpm-vlb --n 10000

The row of improved DDPM is a model trained with L_vlb; that of DDPM one with
L_simple and fixed variances. Of the paper's other rows only those whose numbers
we could check are shown. The bound takes T network calls per image: 10,000
CIFAR-10 images take hours on one GPU. Not run.
"""

import dataclasses

import tyro

from experiments import models, results
from experiments.cli import command_line
from experiments.likelihood import bits_per_dim
from experiments.results import Claim, Row

TITLE = "Improved DDPM Table 3 (NLL)"
_COMMAND = "python -m experiments.iddpm.table3 --weights "
IMAGENET, CIFAR = "ImageNet 64x64", "CIFAR-10"
ROWS = (
  Row(
    "DDPM",
    {IMAGENET: "3.77", CIFAR: "3.70", "source": "Ho et al. 2020; the paper"},
    _COMMAND + "runs/cifar10-simple",
  ),
  Row(
    "Improved DDPM",
    {IMAGENET: "3.53", CIFAR: "2.94", "source": "the paper"},
    _COMMAND + "cifar10_uncond_vlb_50M_500K.pt",
  ),
)
CLAIMS = (
  Claim(
    "L_vlb lowers NLL against DDPM",
    ("Improved DDPM", CIFAR),
    ("DDPM", CIFAR),
  ),
)
NOTE = (
  "\nNumbers on other data sets stand in the CIFAR-10 column. Glow, Flow++, "
  "PixelCNN and the other\nrows of the paper's table are left out: we have no "
  "checked copy of their numbers.\n"
)


def row_of(config) -> str:
  """The row a model belongs to.

  Raises:
    ValueError: it belongs to neither.
  """
  objective = getattr(config, "objective", getattr(config, "loss", ""))
  names = {"vlb": "Improved DDPM", "simple": "DDPM", "bound": "DDPM"}
  if objective not in names:
    raise ValueError(
      "Table 3 has models trained with the bound alone, or DDPM's; got one "
      f"trained with {objective!r}"
    )
  return names[objective]


def main(
  weights: str,
  n: int = 1000,
  batch_size: int = 64,
  chunk: int = 1,
  seed: int = 0,
  out: str = "runs/iddpm-table3",
) -> None:
  """Bounds the likelihood of one checkpoint on its test split.

  Args:
    weights: a workdir, or a released file.
    n: images of the test split; the paper takes all.
    batch_size: images at a time.
    chunk: terms of the bound at a time.
    seed: of the noise.
    out: directory for the results.
  """
  timer = results.Timer()
  model = models.load(weights)
  config = model.config
  row = row_of(config)
  column = IMAGENET if config.dataset.startswith("imagenet") else CIFAR
  split = config.test_split
  mean, error = bits_per_dim(model, split, n, seed, batch_size, chunk)
  result = results.Result(
    TITLE,
    row,
    {column: f"{mean:.3f} ± {error:.3f}", "source": "this table"},
    {column: mean},
    dataclasses.asdict(config),
    f"first {n} images of {split}, seed {seed}",
    timer.seconds(),
  )
  path = results.save(result, out)
  text = results.table(TITLE, ROWS, [result])
  path.with_suffix(".md").write_text(text)
  print(text)
  print(f"saved: {path}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
