"""The main job in five minutes on two CPU cores: train, sample, report.

  python -m experiments.quickstart          # or: make quickstart

Trains the `mnist5k` configuration of DDPM on 4,500 real MNIST digits, samples
it with DDPM and DDIM, and writes runs/quickstart/report.md with its pictures.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxgen.diffusion as jd
from experiments import results
from experiments.cli import command_line
from experiments.ddpm import model
from experiments.ddpm.config import CONFIGS, Config, smoke
from experiments.ddpm.train import train
from experiments.plots import save_grid
from experiments.sampling import Sampling, generate, make_draw
from jaxgen import data

SAMPLERS = {
  "ddpm-1000": Sampling("ddpm", 1000),
  "ddim-50": Sampling("ddim", 50),
  "ddim-10": Sampling("ddim", 10),
}


def main(
  workdir: str = "runs/quickstart", n: int = 48, smoke_test: bool = False
) -> None:
  """Trains, samples and reports.

  Args:
    workdir: where everything goes; run again to continue or to sample anew.
    n: images per sampler.
    smoke_test: a few steps of a tiny network, to see that it runs.
  """
  timer = results.Timer()
  config = dataclasses.replace(CONFIGS["mnist5k"], workdir=workdir)
  samplers = SAMPLERS
  if smoke_test:
    config = smoke(config)
    samplers = {
      name: dataclasses.replace(how, steps=min(how.steps, config.T))
      for name, how in samplers.items()
    }
  directory = train(config)
  trained = timer.seconds()

  config, unet, params = model.load(str(directory))
  train_images = load_images(config, config.split)
  held_out = load_images(config, config.test_split)
  save_grid(
    directory / "data.png", train_images[:: len(train_images) // n][:n], 8, 2
  )
  rows = [describe("held-out digits", held_out[:500], train_images, 0.0, n)]
  for name, how in samplers.items():
    clock = results.Timer()
    draw = make_draw(model.as_model(config, unet, params), how)
    images = generate(draw, params, n, label=name)
    rows.append(describe(name, images, train_images, clock.seconds(), n))
    save_grid(directory / f"{name}.png", images, 8, 2)
  strip = denoising_strip(config, unet, params)
  save_grid(directory / "denoising.png", strip, 10, 2)

  count = sum(p.size for p in jax.tree.leaves(params))
  text = REPORT.format(
    config=config,
    count=count,
    table=results.markdown(COLUMNS, rows),
    trained=trained,
    total=timer.seconds(),
    device=results.device(),
    commit=results.commit(),
    first=next(iter(samplers)),
  )
  (directory / "report.md").write_text(text)
  print(results.markdown(COLUMNS, rows))
  print(f"report: {directory / 'report.md'}")


def load_images(config: Config, split: str) -> np.ndarray:
  """All images of a split, uint8 `[N, H, W, C]`."""
  source = data.load(config.dataset, split, config.data_dir or None)
  return np.stack([source[i]["image"] for i in range(len(source))])


COLUMNS = ("images", "seconds", "images/s", "mean pixel", "nearest digit")


def describe(
  name: str, images: np.ndarray, real: np.ndarray, seconds: float, n: int
) -> tuple[str, ...]:
  """A row of the table: cost, brightness, distance to the training set."""
  rate = f"{n / seconds:.2g}" if seconds else ""
  cost = f"{seconds:.1f}" if seconds else ""
  flat = images.reshape(len(images), -1).astype(np.float32) / 255
  other = real.reshape(len(real), -1).astype(np.float32) / 255
  squares = (
    (flat**2).sum(1)[:, None] - 2 * flat @ other.T + (other**2).sum(1)[None]
  )
  nearest = np.sqrt(np.maximum(squares.min(1), 0)).mean()
  return name, cost, rate, f"{flat.mean():.3f}", f"{nearest:.2f}"


def denoising_strip(config: Config, unet, params) -> np.ndarray:
  """x_t and the estimate of x_0 along one reverse process, `[20, H, W, C]`."""
  process = model.make_process(config)
  size = config.image_size

  @jax.jit
  def run(params):
    key = jax.random.key(3)
    network = model.make_network(unet, params)
    denoiser = model.make_denoiser(config, process, network)
    denoiser = jd.clip_x_0(process, denoiser)
    sampler = jd.ancestral(process, denoiser, model.VARIANCE[config.variance])
    x_T = jd.prior(process, key, (1, size, size, config.image_channels))
    times = jd.descending_times(config.T, config.T)
    path = jd.trajectory(key, x_T, times, sampler)[:, 0]
    shown = jd.descending_times(config.T, 9)
    x_t = path[config.T - shown]
    # The last column is data: its own estimate.
    estimates = denoiser(x_t[:-1], jnp.asarray(shown[:-1])).x_0
    return x_t, jnp.concatenate([estimates, x_t[-1:]])

  x_t, estimates = (np.asarray(a) for a in run(params))
  return data.to_uint8(np.concatenate([x_t, estimates]))


REPORT = """# A DDPM on MNIST digits

Trained for {config.steps} steps of batch {config.batch_size} on 4,500 digits:
{count:,} parameters, {trained:.0f} s; all of this report {total:.0f} s, on
{device}, commit {commit}, seed {config.seed}.

{table}
*nearest digit*: mean L2 distance from an image to the nearest training digit,
pixels in [0, 1]. Held-out real digits show what to expect: much less would be
copies, much more no digits.

| {first} | data |
| --- | --- |
| ![samples]({first}.png) | ![data](data.png) |

DDIM with 50 and with 10 steps, from the same noise:

![ddim-50](ddim-50.png) ![ddim-10](ddim-10.png)

One reverse process from t = {config.T} to 0: x_t above, the estimate of x_0
below.

![denoising](denoising.png)

The loss, E |v - v_theta|^2 with v = alpha_t eps - sigma_t x_0 (DDPM Eq. 14 for
the velocity of Salimans & Ho 2022, which small networks learn sooner):

![loss](loss.png)

Next: `python -m experiments.ddpm.figures --weights {config.workdir}`, and the
paper's own configurations in experiments/ddpm/config.py.
"""


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
