"""SD1's samplers against CompVis's and k-diffusion's, from stored arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd
from jaxgen.diffusion import editing, samplers

STORED = dict(np.load(Path(__file__).parents[1] / "data" / "ldm_samplers.npz"))
DISCRETE = jd.DiscreteProcess.from_betas(jd.scaled_linear_betas())
SMOOTH = jd.InterpolatedProcess(DISCRETE)
SHAPE = (2, 4, 4, 3)


def draw(seed, *shape):
  random = np.random.RandomState(seed)
  return jnp.asarray(random.standard_normal(shape).astype(np.float32))


def network(x, t):
  t = (t - 1.0).reshape(-1, 1, 1, 1)
  return 0.7 * x + 0.2 * jnp.sin(2 * x) + 0.0002 * t


def given(noise):
  """In the place of `normal_like`: the noise whose number is the key."""
  return lambda key, x: noise[key]


def run(make, process, times, x, monkeypatch, denoise=network):
  """What `sample` does, with the given noise."""
  sampler = make(process, jd.eps_denoiser(process, denoise))
  noise, memory = draw(1, len(times), *SHAPE), sampler.init(x)
  monkeypatch.setattr(samplers, "normal_like", given(noise))
  step = jax.jit(sampler.step)
  for i in range(len(times) - 1):
    x, memory = step(i, x, times[i], times[i + 1], memory)
  return np.asarray(x)


def assert_close(got, name, to=1e-5):
  want = STORED[name]
  assert np.abs(got - want).max() <= to * np.abs(want).max()


@pytest.mark.parametrize("steps", [20, 50])
def test_times(steps):
  times = jd.sd1_times(steps)
  np.testing.assert_array_equal(
    times[:-1][::-1] - 1, STORED[f"timesteps_{steps}"]
  )
  assert times[-1] == 1


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("name", ["ddim_0.0", "ddim_0.5", "ddim_1.0", "plms"])
def test_ddim_and_plms(name, steps, monkeypatch):
  make = jd.plms
  if name != "plms":
    eta = float(name.removeprefix("ddim_"))
    make = lambda process, denoiser: jd.ddim(process, denoiser, eta)
  x = draw(0, *SHAPE)
  got = run(make, DISCRETE, jd.sd1_times(steps), x, monkeypatch)
  assert_close(got, f"{name}_{steps}")


def test_guidance(monkeypatch):
  """Both conditions in one call, the second a negative prompt's."""
  guided = jd.guided_network(
    lambda x, t, c: network(x, t) + c,
    jnp.full((2, 1, 1, 1), 0.3),
    jnp.full((2, 1, 1, 1), -0.1),
    7.5,
  )
  x, times = draw(0, *SHAPE), jd.sd1_times(20)
  got = run(jd.ddim, DISCRETE, times, x, monkeypatch, guided)
  assert_close(got, "guided")


def test_inpainting_of_the_unknown_part(monkeypatch):
  """It puts the known part in place before a step, ours after it."""
  times, known = jd.sd1_times(20), draw(3, *SHAPE)
  mask = (draw(2, 1, 4, 4, 1) > 0).astype(jnp.float32)
  noise = draw(7, 21, *SHAPE)
  alpha, sigma = jd.marginal(DISCRETE, times[0], known)
  x = mask * (alpha * known + sigma * noise[0]) + (1 - mask) * draw(0, *SHAPE)
  # The noise after step i is that before step i + 1.
  monkeypatch.setattr(editing, "normal_like", given(noise[1:]))
  monkeypatch.setattr(editing.random, "fold_in", lambda key, data: key)
  make = lambda *model: jd.inpaint(DISCRETE, jd.ddim(*model), known, mask)
  got = run(make, DISCRETE, times, x, monkeypatch)
  want, free = STORED["masked"], np.broadcast_to(mask == 0, SHAPE)
  assert np.abs(got - want)[free].max() <= 1e-5 * np.abs(want).max()
  alpha, sigma = jd.marginal(DISCRETE, times[-1], known)
  at_end = np.asarray(alpha * known + sigma * noise[20])
  np.testing.assert_allclose(got[~free], at_end[~free], atol=1e-6)


def test_image_to_image(monkeypatch):
  """Its script starts one level noisier than the time it starts at."""
  times, x_0, noise = jd.sd1_times(20), draw(3, *SHAPE), draw(4, *SHAPE)
  _, rest = jd.image_to_image(DISCRETE, jax.random.key(0), x_0, times, 0.75)
  assert len(rest) == 16
  before = times[len(times) - len(rest) - 1]
  alpha, sigma = jd.marginal(DISCRETE, before, x_0)
  x = alpha * x_0 + sigma * noise
  assert_close(x, "encoded")
  assert_close(run(jd.ddim, DISCRETE, rest, x, monkeypatch), "decoded")


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("grid", ["linspace", "karras"])
def test_k_diffusion(grid, steps, monkeypatch):
  """Euler is DDIM, Euler a is DDIM with eta; DPM-Solver++(2M), Heun."""
  levels = jd.karras_times(steps, SMOOTH.sigma_min, SMOOTH.sigma_max)
  times = jd.times_of_sigmas(SMOOTH, levels)
  if grid == "linspace":
    times = jd.linspace_times(1000, steps)
  alpha, sigma = SMOOTH.alpha(times), SMOOTH.sigma(times)
  want = STORED[f"sigmas_{grid}_{steps}"]
  np.testing.assert_allclose(sigma / alpha, want, rtol=1e-4)
  # Its t of a level near the first rests on a float32 1 - alpha-bar.
  zero_based = STORED[f"times_{grid}_{steps}"]
  np.testing.assert_allclose(times[:-1] - 1, zero_based, rtol=1e-5, atol=1e-3)
  x = draw(0, *SHAPE) * sigma[0]
  for eta in (0.0, 0.5, 1.0):
    make = lambda process, denoiser, eta=eta: jd.ddim(process, denoiser, eta)
    got = run(make, SMOOTH, times, x, monkeypatch)
    assert_close(got, f"euler_{eta}_{grid}_{steps}")
  for name, make in (("dpm", jd.dpm_solver_pp_2m), ("heun", jd.edm_heun)):
    got = run(make, SMOOTH, times, x, monkeypatch)
    assert_close(got, f"{name}_{grid}_{steps}")
