"""SD1's samplers against diffusers' schedulers under SD1's configuration."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_euler_ancestral_discrete as euler_a

import jaxgen.diffusion as jd
from jaxgen.diffusion import samplers

SD1 = {
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "beta_end": 0.012,
}
# Of its scheduler_config.json: the grid of the released code, which ends at the
# first noise level.
LEADING = {"set_alpha_to_one": False, "steps_offset": 1}
DISCRETE = jd.DiscreteProcess.from_betas(jd.scaled_linear_betas())
SMOOTH = jd.InterpolatedProcess(DISCRETE)
X = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
NOISE = np.random.default_rng(1).standard_normal((51, *X.shape))
NOISE = NOISE.astype(np.float32)


def network(x, t):
  """Works for both libraries; t counts from 0."""
  tanh = torch.tanh if isinstance(x, torch.Tensor) else jnp.tanh
  return 0.8 * tanh(x) + 0.1 * x + 0.0002 * t


def theirs(scheduler, steps, **options):
  """(result, timesteps, sigmas / alphas)."""
  scheduler.set_timesteps(steps)
  x = torch.from_numpy(X) * scheduler.init_noise_sigma
  for t in scheduler.timesteps:
    eps = network(scheduler.scale_model_input(x, t), t)
    x = scheduler.step(eps, t, x, **options).prev_sample
  sigmas = getattr(scheduler, "sigmas", None)
  return x.numpy(), scheduler.timesteps.numpy(), sigmas


def ours(make, process, times, std=1.0, round_t=False):
  def network_at(x, t):
    t = jnp.round(t - 1) if round_t else t - 1.0
    return network(x, t.reshape(-1, 1, 1, 1))

  sampler = make(process, jd.eps_denoiser(process, network_at))
  x, memory, step = jnp.asarray(X) * std, sampler.init(X), jax.jit(sampler.step)
  for i in range(len(times) - 1):
    x, memory = step(i, x, times[i], times[i + 1], memory)
  return np.asarray(x)


def assert_close(got, want, to=1e-5):
  assert np.abs(got - want).max() <= to * np.abs(want).max()


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(steps, eta, monkeypatch):
  scheduler = diffusers.DDIMScheduler(**SD1, **LEADING, clip_sample=False)
  noise = iter(torch.from_numpy(NOISE))
  monkeypatch.setattr(
    "diffusers.schedulers.scheduling_ddim.randn_tensor",
    lambda *args, **kwargs: next(noise),
  )
  monkeypatch.setattr(
    samplers, "normal_like", lambda i, x: jnp.asarray(NOISE)[i]
  )
  want, levels, _ = theirs(scheduler, steps, eta=eta)
  times = jd.sd1_times(steps)
  np.testing.assert_array_equal(levels, times[:-1] - 1)
  make = lambda *model: jd.ddim(*model, eta)
  assert_close(ours(make, DISCRETE, times), want)


@pytest.mark.parametrize("steps", [20, 50])
def test_plms(steps):
  """SD1's default. Its second timestep, which it repeats, is our look ahead."""
  scheduler = diffusers.PNDMScheduler(**SD1, **LEADING, skip_prk_steps=True)
  want, levels, _ = theirs(scheduler, steps)
  times = jd.sd1_times(steps)
  assert len(levels) == steps + 1
  np.testing.assert_array_equal(np.unique(levels)[::-1], times[:-1] - 1)
  assert_close(ours(jd.plms, DISCRETE, times), want)


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("karras", [False, True])
def test_dpm_solver(steps, karras):
  """It asks the network for whole timesteps, though sigmas lie between."""
  scheduler = diffusers.DPMSolverMultistepScheduler(
    **SD1, use_karras_sigmas=karras
  )
  want, levels, sigmas = theirs(scheduler, steps)
  if karras:
    levels = jd.karras_times(steps, SMOOTH.sigma_min, SMOOTH.sigma_max)
    np.testing.assert_allclose(levels, sigmas, rtol=1e-4)
    times, process = jd.times_of_sigmas(SMOOTH, levels), SMOOTH
  else:
    times, process = np.append(levels + 1, 0), DISCRETE
  assert_close(ours(jd.dpm_solver_pp_2m, process, times, round_t=True), want)


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("name", ["linspace", "karras", "ancestral"])
def test_euler(steps, name, monkeypatch):
  """Euler is DDIM; Euler a is DDIM with eta = 1."""
  kind, options = diffusers.EulerDiscreteScheduler, {}
  if name == "karras":
    options = {"use_karras_sigmas": True}
  if name == "ancestral":
    kind, noise = diffusers.EulerAncestralDiscreteScheduler, iter(NOISE)
    monkeypatch.setattr(
      euler_a,
      "randn_tensor",
      lambda *args, **kwargs: torch.from_numpy(next(noise)),
    )
  monkeypatch.setattr(
    samplers, "normal_like", lambda i, x: jnp.asarray(NOISE)[i]
  )
  want, levels, sigmas = theirs(kind(**SD1, **options), steps)
  if name == "karras":
    grid = jd.karras_times(steps, SMOOTH.sigma_min, SMOOTH.sigma_max)
    times = jd.times_of_sigmas(SMOOTH, grid)
  else:
    # Between whole timesteps it interpolates sigma, k-diffusion its logarithm.
    times = jd.times_of_sigmas(SMOOTH, sigmas.numpy())
    np.testing.assert_allclose(times, jd.linspace_times(1000, steps), atol=4e-3)
  np.testing.assert_allclose(times[:-1] - 1, levels, rtol=1e-5, atol=4e-3)
  make = lambda *model: jd.ddim(*model, float(name == "ancestral"))
  assert_close(ours(make, SMOOTH, times, SMOOTH.sigma(1000.0)), want)
