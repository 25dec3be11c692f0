"""DDIM Table 2: error of encoding images and decoding them again.

  python -m experiments.ddim.table2 --weights ddpm-ema-cifar10 --n 10000
  python -m experiments.ddim.table2 --weights runs/mnist5k

x_0 of the test split goes up tau to x_T by DDIM with eta = 0 and down again, S
steps each way; the error is the mean square per pixel, pixels in [0, 1].
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.progress import track

import jaxgen.diffusion as jd
from experiments import models, results
from experiments.cli import command_line
from experiments.models import CROPS
from experiments.results import Claim, Row
from jaxgen import data

TITLE = "DDIM Table 2 (reconstruction error)"
STEPS = (10, 20, 50, 100, 200, 500, 1000)
COLUMNS = tuple(f"S = {steps}" for steps in STEPS)
_PAPER = (".014", ".0065", ".0023", ".0009", ".0004", ".0001", ".0001")
ROWS = (
  Row(
    "error",
    dict(zip(COLUMNS, _PAPER, strict=True)),
    "python -m experiments.ddim.table2 --weights runs/cifar10",
  ),
)
NOTE = ""
CLAIMS = tuple(
  Claim(
    f"the error falls from S = {few} to S = {many}",
    smaller=("error", f"S = {many}"),
    larger=("error", f"S = {few}"),
  )
  for few, many in ((10, 50), (50, 100), (100, 1000))
)


def reconstruct(
  process: jd.DiscreteProcess, denoiser: jd.Denoiser, x_0, steps: int
):
  """x_0 encoded and decoded by DDIM with eta = 0 (section 5.4).

  The grid is tau; its lowest level, t = 1, stands for data in the encoding,
  where the network has no level 0.
  """
  times = jd.uniform_times(process.T, steps)
  sampler = jd.ddim(process, denoiser)
  key = jax.random.key(0)  # not used: eta = 0
  up = times[-2::-1]
  latent = jd.sample(key, x_0, up, sampler) if len(up) > 1 else x_0
  return jd.sample(key, latent, times, sampler)


def main(
  weights: str,
  n: int = 256,
  batch_size: int = 64,
  steps: Sequence[int] = STEPS,
  out: str = "runs/ddim-table2",
) -> None:
  """Measures the error for each S.

  Args:
    weights: a workdir, or published weights.
    n: the first n images of the test split.
    batch_size: images at a time.
    steps: the S.
    out: directory for the results.
  """
  timer = results.Timer()
  model = models.load(weights)
  config, process = model.config, model.process
  source = data.load(config.dataset, config.test_split, config.data_dir or None)
  crop = CROPS[config.crop]
  n = min(n, len(source))
  x = np.stack([crop(source[i]["image"], config.image_size) for i in range(n)])
  ours, values = {}, {}
  for s in track(steps, "encoding and decoding", transient=True):

    @jax.jit
    def error(params, x_0, s=s):
      denoiser = model.denoiser(params, None)
      x_hat = reconstruct(process, denoiser, x_0, s)
      return jnp.square((x_hat - x_0) / 2).mean((1, 2, 3))

    parts = [
      error(model.params, data.to_unit(x[i : i + batch_size]))
      for i in range(0, n, batch_size)
    ]
    value = float(np.concatenate(parts).mean())
    ours[f"S = {s}"], values[f"S = {s}"] = f"{value:.2g}", value
  result = results.Result(
    TITLE,
    "error",
    ours,
    values,
    dataclasses.asdict(config),
    f"first {n} images of {config.test_split}",
    timer.seconds(),
  )
  path = results.save(result, out)
  text = results.table(TITLE, ROWS, [result])
  text += results.claims(TITLE, CLAIMS, [result])
  path.with_suffix(".md").write_text(text)
  print(text)
  print(f"saved: {path}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
