"""Latent diffusion's Table 1: unconditional images of 256 x 256 pixels.

  python -m experiments.ldm.table1 --weights celebahq256:model.ckpt --n 50000
  python -m experiments.ldm.table1 --weights runs/ldm-churches256 --n 50000

The steps are those of the paper's table, eta that of the release's README. The
README has other steps in two rows: 200 for CelebA-HQ and 400 for Churches, of
which its code makes 500; see `--steps`. Scores hold against the whole training
set. Not run: 50,000 images take hours on one GPU.
"""

import tyro

from experiments import models
from experiments.cli import command_line
from experiments.evaluate import DEFAULT_SCORING, Scoring
from experiments.ldm.measuring import DEFAULT, Measuring, measure
from experiments.results import Claim, Row
from experiments.sampling import Sampling

TITLE = "Latent diffusion Table 1"
_PAPER = {
  "CelebA-HQ, LDM-4": ("celebahq256", "5.11", "0.72", "0.49"),
  "FFHQ, LDM-4": ("ffhq256", "4.98", "0.73", "0.50"),
  "LSUN-Churches, LDM-8": ("churches256", "4.02", "0.64", "0.52"),
  "LSUN-Bedrooms, LDM-4": ("bedrooms256", "2.95", "0.66", "0.48"),
}
ROWS = tuple(
  Row(
    row,
    {"FID": fid, "Prec.": precision, "Recall": recall},
    f"python -m experiments.ldm.table1 --weights {name}:model.ckpt --n 50000",
  )
  for row, (name, fid, precision, recall) in _PAPER.items()
)
# name of the configuration: (row, steps, eta)
WAYS = {
  "celebahq256": ("CelebA-HQ, LDM-4", 500, 0.0),
  "ffhq256": ("FFHQ, LDM-4", 200, 1.0),
  "churches256": ("LSUN-Churches, LDM-8", 200, 0.0),
  "bedrooms256": ("LSUN-Bedrooms, LDM-4", 200, 1.0),
}
CLAIMS: tuple[Claim, ...] = ()
NOTE = "\nThe paper compares with other papers' models, which are not here.\n"


def main(
  weights: str,
  steps: int = 0,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  measuring: tyro.conf.OmitArgPrefixes[Measuring] = DEFAULT,
) -> None:
  """Measures one model.

  Args:
    weights: a workdir, or NAME:PATH of a released file.
    steps: of DDIM; those of the row if 0.
    scoring: the protocol.
    measuring: how many images.
  """
  model = models.load(weights)
  if model.config.name not in WAYS:
    raise ValueError(f"Table 1 has {', '.join(WAYS)}; got {model.config.name}")
  name, of_row, eta = WAYS[model.config.name]
  row = next(row for row in ROWS if row.name == name)
  how = Sampling("ddim", steps or of_row, "ldm", eta)
  measure(TITLE, ROWS, row, model, how, scoring, measuring)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
