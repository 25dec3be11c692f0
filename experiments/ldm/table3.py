"""Latent diffusion's Tables 3 and 10: class-conditional ImageNet, 256 x 256.

  python -m experiments.ldm.table3 --weights cin256:model.ckpt --n 50000
  python -m experiments.ldm.table3 --weights cin256:model.ckpt --guidance 1.5 \\
    --n 50000

DDIM with 250 steps; eta is 1, which the release's README states of LDM-8 and
nobody of LDM-4. Guidance is classifier-free: LDM-8's rows with a classifier are
left out. Not run: 50,000 images take hours on one GPU.
"""

import tyro

from experiments import models
from experiments.cli import command_line
from experiments.evaluate import DEFAULT_SCORING, Scoring
from experiments.ldm.config import Config
from experiments.ldm.measuring import DEFAULT, Measuring, measure
from experiments.results import Claim, Row
from experiments.sampling import Sampling

TITLE = "Latent diffusion Table 3 (ImageNet 256x256)"
# row: (configuration, scale, FID, IS, precision, recall)
_PAPER = {
  "LDM-8": ("cin256_f8", 1.0, "15.51", "79.03", "0.65", "0.63"),
  "LDM-4": ("cin256", 1.0, "10.56", "103.49 ± 1.24", "0.71", "0.62"),
  "LDM-4-G, s=1.25": ("cin256", 1.25, "3.95", "178.22 ± 2.43", "0.81", "0.55"),
  "LDM-4-G, s=1.5": ("cin256", 1.5, "3.60", "247.67 ± 5.59", "0.87", "0.48"),
}
ROWS = tuple(
  Row(
    row,
    {"FID": fid, "IS": score, "Prec.": precision, "Recall": recall},
    f"python -m experiments.ldm.table3 --weights {name}:model.ckpt --n 50000 "
    f"--guidance {scale:g}",
  )
  for row, (name, scale, fid, score, precision, recall) in _PAPER.items()
)
CLAIMS = (
  Claim("guidance lowers FID", ("LDM-4-G, s=1.5", "FID"), ("LDM-4", "FID")),
  Claim(
    "guidance raises precision",
    ("LDM-4", "Prec."),
    ("LDM-4-G, s=1.5", "Prec."),
  ),
  Claim(
    "guidance lowers recall", ("LDM-4-G, s=1.5", "Recall"), ("LDM-4", "Recall")
  ),
  Claim("f = 4 lowers FID against f = 8", ("LDM-4", "FID"), ("LDM-8", "FID")),
)
NOTE = ""


def row_of(config: Config, guidance: float) -> Row:
  """The row of a class-conditional model and a scale of guidance.

  Raises:
    ValueError: there is none.
  """
  name = "cin256_f8" if config.name == "cin256_f8" else "cin256"
  for row, (of_row, scale, *_) in zip(ROWS, _PAPER.values(), strict=True):
    if config.condition == "class" and (name, guidance) == (of_row, scale):
      return row
  raise ValueError(
    "Table 3 has class-conditional models with guidance 1, 1.25 and 1.5, and "
    f"cin256_f8 with 1; got {config.name} with {guidance:g}"
  )


def main(
  weights: str,
  guidance: float = 1.0,
  steps: int = 250,
  eta: float = 1.0,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  measuring: tyro.conf.OmitArgPrefixes[Measuring] = DEFAULT,
) -> None:
  """Measures one class-conditional model at one scale of guidance.

  Args:
    weights: a workdir, or NAME:PATH of a released file.
    guidance: the scale; 1 for none.
    steps: of DDIM.
    eta: DDIM's.
    scoring: the protocol.
    measuring: how many images.
  """
  model = models.load(weights)
  row = row_of(model.config, guidance)
  how = Sampling("ddim", steps, "ldm", eta, guidance=guidance)
  measure(TITLE, ROWS, row, model, how, scoring, measuring)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
