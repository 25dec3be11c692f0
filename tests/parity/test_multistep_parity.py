"""DPM-Solver++(2M) and PLMS against diffusers' schedulers, step by step."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxgen.diffusion as jd

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085}
PROCESS = jd.DiscreteProcess.from_betas(jd.scaled_linear_betas())
X = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)


def network(x, t):
  """Works for both libraries; t counts from 0."""
  sin = torch.sin if isinstance(x, torch.Tensor) else jnp.sin
  return 0.7 * x + 0.2 * sin(2 * x) + 0.0002 * t


def theirs(scheduler, steps):
  scheduler.set_timesteps(steps)
  x, levels = torch.from_numpy(X) * scheduler.init_noise_sigma, []
  for t in scheduler.timesteps:
    x = scheduler.step(network(x, t), t, x).prev_sample
    levels.append(int(t))
  return x.numpy(), levels


def ours(sampler, times):
  denoiser = jd.eps_denoiser(
    PROCESS, lambda x, t: network(x, (t - 1.0).reshape(-1, 1, 1, 1))
  )
  run = jax.jit(
    lambda x: jd.sample(jax.random.key(0), x, times, sampler(PROCESS, denoiser))
  )
  return run(jnp.asarray(X))


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_dpm_solver(steps):
  scheduler = diffusers.DPMSolverMultistepScheduler(
    **BETAS, beta_end=0.012, final_sigmas_type="zero"
  )
  want, levels = theirs(scheduler, steps)
  # Timesteps of the library, which counts from 0; it ends at data.
  got = ours(jd.dpm_solver_pp_2m, np.array([*(t + 1 for t in levels), 0]))
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_plms(steps):
  scheduler = diffusers.PNDMScheduler(
    **BETAS, beta_end=0.012, skip_prk_steps=True, steps_offset=1
  )
  want, levels = theirs(scheduler, steps)
  # Its second timestep occurs twice: the look ahead of the first step. It ends
  # at the first noise level, not at data.
  levels = list(dict.fromkeys(levels))
  got = ours(jd.plms, np.array([*(t + 1 for t in levels), 1]))
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)
