"""Score SDE Table 3: FID and Inception score of the best networks.

  python -m experiments.score_sde.table3 \\
    --weights ve/cifar10_ncsnpp_deep_continuous:PATH --n 50000
  python -m experiments.score_sde.table3 --weights runs/mnist5k_ve

Predictor-corrector sampling with reverse diffusion for VE, the paper's choice;
VP and sub-VP are sampled by reverse diffusion alone, as their released
configurations are. The paper takes each model's best checkpoint by FID, of one
every 50,000 updates.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from experiments import results
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
from experiments.score_sde import model as models
from experiments.score_sde.sampling import (
  ScoreSampling,
  evaluations,
  make_draw,
)

TITLE = "Score SDE Table 3"
_COMMAND = "python -m experiments.score_sde.table3 --weights runs/"
_PAPER = {
  "vp/cifar10_ddpmpp": ("DDPM++", "2.78", "9.64"),
  "vp/cifar10_ddpmpp_continuous": ("DDPM++ cont. (VP)", "2.55", "9.58"),
  "subvp/cifar10_ddpmpp_continuous": ("DDPM++ cont. (sub-VP)", "2.61", "9.56"),
  "vp/cifar10_ddpmpp_deep_continuous": (
    "DDPM++ cont. deep (VP)",
    "2.41",
    "9.68",
  ),
  "subvp/cifar10_ddpmpp_deep_continuous": (
    "DDPM++ cont. deep (sub-VP)",
    "2.41",
    "9.57",
  ),
  "ve/cifar10_ncsnpp": ("NCSN++", "2.45", "9.73"),
  "ve/cifar10_ncsnpp_continuous": ("NCSN++ cont. (VE)", "2.38", "9.83"),
  "ve/cifar10_ncsnpp_deep_continuous": (
    "NCSN++ cont. deep (VE)",
    "2.20",
    "9.89",
  ),
}
_REPLICAS = {
  "vp": "DDPM++ cont. (VP)",
  "subvp": "DDPM++ cont. (sub-VP)",
  "ve": "NCSN++ cont. (VE)",
}
ROWS = tuple(
  Row(name, {"FID": fid, "IS": inception}, _COMMAND + model)
  for model, (name, fid, inception) in _PAPER.items()
)
NOTE = ""
CLAIMS = (
  Claim(
    "VE gives the better samples than VP (FID)",
    smaller=("NCSN++ cont. (VE)", "FID"),
    larger=("DDPM++ cont. (VP)", "FID"),
  ),
  Claim(
    "VE gives the better samples than sub-VP (FID)",
    smaller=("NCSN++ cont. (VE)", "FID"),
    larger=("DDPM++ cont. (sub-VP)", "FID"),
  ),
)


def row_of(config: models.Config) -> str:
  """The row that a model stands in.

  Raises:
    ValueError: it stands in none.
  """
  if config.network in _PAPER:
    return _PAPER[config.network][0]
  if not config.continuous or config.network != "unet":
    raise ValueError(f"{config.name} is none of the models of {TITLE}")
  return _REPLICAS[config.sde]


def main(
  weights: str,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 1000,
  sampling_batch: int = 64,
  steps: int = 0,
  seed: int = 0,
  out: str = "runs/score_sde-table3",
) -> None:
  """Samples and scores one checkpoint.

  Args:
    weights: a workdir, or NAME:PATH of a published checkpoint.
    scoring: the protocol.
    n: images; the paper takes 50,000.
    sampling_batch: images drawn at a time, which Langevin steps depend on.
    steps: of the predictor; the configuration's T if 0.
    seed: of the noise.
    out: directory for images and results.
  """
  timer = results.Timer()
  loaded = models.load(weights)
  config, row = loaded[0], row_of(loaded[0])
  model = models.as_model(*loaded)
  how = ScoreSampling(
    "reverse",
    "langevin" if config.sde == "ve" else "none",
    steps or config.T,
  )
  found, images = score_samples(
    model,
    how,
    make_yardstick(config, scoring),
    n,
    Path(out) / config.name.replace("/", "-"),
    seed,
    sampling_batch,
    make_draw(model, how),
  )
  result = results.Result(
    TITLE,
    row,
    {name: cell(found[name]) for name in ("FID", "IS")},
    {name: found[name].value for name in ("FID", "IS")},
    dataclasses.asdict(config),
    f"{n} samples, seed {seed}, batch {sampling_batch}, NFE "
    f"{evaluations(model, how)}, features {found['FID'].protocol.features}",
    timer.seconds(),
    {name: dataclasses.asdict(score) for name, score in found.items()},
  )
  path = results.save(result, out)
  text = results.table(TITLE, [r for r in ROWS if r.name == row], [result])
  path.with_suffix(".md").write_text(text)
  save_grid(path.with_suffix(".png"), np.stack(images[:64]), columns=8)
  print(text)
  print(f"saved: {path}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
