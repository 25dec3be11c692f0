"""The network and samplers of ermongroup/ddim, from stored arrays."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_inception import random_state

import jaxgen.diffusion as jd
from jaxgen.convert import ddpm
from jaxgen.diffusion import samplers
from jaxgen.nn.ddpm_unet import UNet

STORED = dict(np.load(Path(__file__).parents[1] / "data" / "ddim.npz"))
PROCESS = jd.DiscreteProcess.from_betas(jd.linear_betas())
GRIDS = {
  "uniform": jd.uniform_times(1000, 10),
  "quad": jd.quadratic_times(1000, 10),
}


def draws():
  """x_T, and the noise of each step."""
  random = np.random.RandomState(2)
  draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
  return draw(2, 3, 16, 16), draw(10, 2, 3, 16, 16)


def nhwc(x):
  return jnp.moveaxis(jnp.asarray(x), -3, -1)


def test_network():
  shapes = json.loads(str(STORED["shapes"]))
  unet = UNet(32, (1, 2), 1, attention_resolutions=(8,), dropout=0.1)
  params = ddpm.from_original(random_state(shapes, seed=1), unet)
  t = jnp.array([3, 777])
  got = jax.jit(unet.apply)({"params": params}, nhwc(draws()[0]), t)
  want = nhwc(STORED["output"])
  assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()


@pytest.mark.parametrize("grid", list(GRIDS))
@pytest.mark.parametrize(
  "name", ["eta_0.0", "eta_0.2", "eta_1.0", "ddpm_noisy"]
)
def test_samplers(name, grid, monkeypatch):
  """`generalized_steps` and `ddpm_steps`, their sigma-hat, step by step."""
  x, noise = (nhwc(a) for a in draws())
  denoiser = jd.eps_denoiser(PROCESS, lambda x, t: 0.1 * x)
  if name == "ddpm_noisy":
    denoiser = jd.clip_x_0(PROCESS, denoiser)
    sampler = jd.ancestral(PROCESS, denoiser, jd.FIXED_LARGE)
  else:
    sampler = jd.ddim(PROCESS, denoiser, float(name.removeprefix("eta_")))
  times, found = GRIDS[grid], [x]
  for i in range(len(times) - 1):
    monkeypatch.setattr(samplers, "normal_like", lambda key, x, i=i: noise[i])
    t, s = jnp.asarray(times[i]), jnp.asarray(times[i + 1])
    x, _ = sampler.step(None, x, t, s, ())
    found.append(x)
  want = nhwc(STORED[f"{name}_{grid}"])
  got = np.stack([found[i] for i in (1, 5, -1)])
  assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()
