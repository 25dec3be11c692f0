"""Score SDE Table 2: likelihoods, and FID with the probability flow ODE.

  python -m experiments.score_sde.table2 \\
    --weights subvp/cifar10_ddpmpp_deep_continuous:PATH
  python -m experiments.score_sde.table2 --weights runs/mnist5k_subvp --n 256

Bits per dimension of the test split, uniformly dequantised, by the adaptive ODE
and Hutchinson's estimate; the paper averages five draws over 10,000 images, and
takes 50,000 samples. A network trained at DDPM's levels is interpolated.
"""

import dataclasses
from pathlib import Path

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
from experiments.results import Claim, Row
from experiments.score_sde import model as models
from experiments.score_sde.likelihood import ode_bits
from experiments.score_sde.sampling import ScoreSampling, make_draw

TITLE = "Score SDE Table 2"
_COMMAND = "python -m experiments.score_sde.table2 --weights runs/"
_PAPER = {
  "vp/cifar10_ddpm": ("DDPM, discrete", "3.28", "3.37"),
  "vp/cifar10_ddpm_continuous": ("DDPM cont. (VP)", "3.21", "3.69"),
  "subvp/cifar10_ddpm_continuous": ("DDPM cont. (sub-VP)", "3.05", "3.56"),
  "vp/cifar10_ddpmpp_continuous": ("DDPM++ cont. (VP)", "3.16", "3.93"),
  "subvp/cifar10_ddpmpp_continuous": ("DDPM++ cont. (sub-VP)", "3.02", "3.16"),
  "vp/cifar10_ddpmpp_deep_continuous": (
    "DDPM++ cont. deep (VP)",
    "3.13",
    "3.08",
  ),
  "subvp/cifar10_ddpmpp_deep_continuous": (
    "DDPM++ cont. deep (sub-VP)",
    "2.99",
    "2.92",
  ),
}
# Small networks stand in the rows of their SDE; VE is not in the paper's table.
_REPLICAS = {
  "vp": "DDPM cont. (VP)",
  "subvp": "DDPM cont. (sub-VP)",
  "ve": "cont. (VE)",
}
_NAMED = {
  **_PAPER,
  "ve/cifar10_ncsnpp_continuous": (_REPLICAS["ve"], "", ""),
}
ROWS = tuple(
  Row(name, {"NLL test": nll, "FID": fid}, _COMMAND + model)
  for model, (name, nll, fid) in _NAMED.items()
)
NOTE = """
On `mnist5k` each number is of one run. Digits are mostly black, one value of
256, and the networks were trained without dequantisation, as the paper's: the
uniform noise that the likelihood adds is new to them. So these bits per
dimension compare with each other, not with the bounds of DDPM's tables.
"""
CLAIMS = (
  Claim(
    "sub-VP has the better likelihood than VP",
    smaller=("DDPM cont. (sub-VP)", "NLL test"),
    larger=("DDPM cont. (VP)", "NLL test"),
  ),
  Claim(
    "sub-VP has the better samples than VP with the ODE (FID)",
    smaller=("DDPM cont. (sub-VP)", "FID"),
    larger=("DDPM cont. (VP)", "FID"),
  ),
  Claim(
    "continuous training improves the likelihood",
    smaller=("DDPM cont. (VP)", "NLL test"),
    larger=("DDPM, discrete", "NLL test"),
  ),
)


def row_of(config: models.Config) -> str:
  """The row that a model stands in."""
  if config.network in _PAPER:
    return _PAPER[config.network][0]
  discrete = config.sde == "vp" and not config.continuous
  return "DDPM, discrete" if discrete else _REPLICAS[config.sde]


def main(
  weights: str,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 1000,
  repeats: int = 1,
  num_samples: int = 1000,
  sampling_batch: int = 64,
  tolerance: float = 1e-5,
  seed: int = 0,
  out: str = "runs/score_sde-table2",
) -> None:
  """Measures one checkpoint.

  Args:
    weights: a workdir, or NAME:PATH of a published checkpoint.
    scoring: the protocol of FID.
    n: images of the test split; the paper takes all.
    repeats: draws of dequantisation and probe; the paper takes 5.
    num_samples: for FID.
    sampling_batch: images at a time.
    tolerance: rtol and atol of the ODE.
    seed: of the noise.
    out: directory for the results.
  """
  timer = results.Timer()
  config, net, params = models.load(weights)
  model = models.as_model(config, net, params, models.make_sde(config))
  mean, error, count, protocol = ode_bits(
    model, n, repeats, sampling_batch, tolerance, seed
  )
  how = ScoreSampling("ode", "none", denoise=False, tolerance=tolerance)
  row = row_of(config)
  found, _ = score_samples(
    model,
    how,
    make_yardstick(config, scoring),
    num_samples,
    Path(out) / config.name.replace("/", "-"),
    seed,
    sampling_batch,
    make_draw(model, how),
  )
  result = results.Result(
    TITLE,
    row,
    {"NLL test": f"{mean:.3f} ± {error:.3f}", "FID": cell(found["FID"])},
    {"NLL test": mean, "FID": found["FID"].value},
    dataclasses.asdict(config),
    f"{protocol}; {repeats} draw(s) of the first {n} images of "
    f"{config.test_split}, NFE {count:.0f}; {num_samples} samples, features "
    f"{found['FID'].protocol.features}; seed {seed}",
    timer.seconds(),
    {name: dataclasses.asdict(score) for name, score in found.items()},
  )
  path = results.save(result, out)
  text = results.table(TITLE, [r for r in ROWS if r.name == row], [result])
  path.with_suffix(".md").write_text(text)
  print(text)
  print(f"saved: {path}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
