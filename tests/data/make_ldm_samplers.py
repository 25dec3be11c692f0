"""Writes ldm_samplers.npz: the samplers of Stable Diffusion and k-diffusion.

`make_ldm_samplers.py STABLE_DIFFUSION K_DIFFUSION OUT.npz`, checkouts of
CompVis/stable-diffusion and crowsonkb/k-diffusion. The network is a formula and
the noise of a script's own: PROVENANCE.md.
"""

import importlib
import sys
import types
from types import SimpleNamespace

import numpy as np
import torch

SHAPE = (2, 4, 4, 3)


def eps(x, t):
  """The network, t counted from 0; NCHW and NHWC alike."""
  return 0.7 * x + 0.2 * torch.sin(2 * x) + 0.0002 * t.reshape(-1, 1, 1, 1)


def draw(seed, *shape):
  random = np.random.RandomState(seed)
  return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def noises(seed):
  """One draw after another."""
  random = np.random.RandomState(seed)
  while True:
    yield torch.from_numpy(random.standard_normal(SHAPE).astype(np.float32))


def alphas_cumprod():
  betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
  return torch.cumprod(1 - betas**2, 0).float()


def stable_diffusion(stored):
  ddim = importlib.import_module("ldm.models.diffusion.ddim")
  plms = importlib.import_module("ldm.models.diffusion.plms")
  abar = alphas_cumprod()
  q_noise = noises(7)

  def q_sample(x_0, t):
    a = abar[t].reshape(-1, 1, 1, 1)
    return a.sqrt() * x_0 + (1 - a).sqrt() * next(q_noise)

  model = SimpleNamespace(
    num_timesteps=1000,
    betas=1 - abar / torch.cat([torch.ones(1), abar[:-1]]),
    alphas_cumprod=abar,
    alphas_cumprod_prev=torch.cat([torch.ones(1), abar[:-1]]),
    device=torch.device("cpu"),
    apply_model=lambda x, t, c: eps(x, t) + (0 if c is None else c),
    q_sample=q_sample,
  )
  for module in (ddim.DDIMSampler, plms.PLMSSampler):
    module.register_buffer = lambda self, name, value: setattr(
      self, name, value
    )
  x = draw(0, *SHAPE)
  shape = (SHAPE[1:], None)
  for steps in (20, 50):
    for name, kind, options in (
      ("ddim_0.0", ddim.DDIMSampler, {"eta": 0.0}),
      ("ddim_0.5", ddim.DDIMSampler, {"eta": 0.5}),
      ("ddim_1.0", ddim.DDIMSampler, {"eta": 1.0}),
      ("plms", plms.PLMSSampler, {"eta": 0.0}),
    ):
      source = noises(1)
      for module in (ddim, plms):
        module.noise_like = lambda *a, source=source: next(source)
      sampler = kind(model)
      out, _ = sampler.sample(steps, 2, *shape, x_T=x, verbose=False, **options)
      stored[f"{name}_{steps}"] = out.numpy()
    stored[f"timesteps_{steps}"] = np.asarray(sampler.ddim_timesteps)
  ddim.noise_like = lambda *a: torch.zeros(SHAPE)
  sampler = ddim.DDIMSampler(model)
  conditions = [torch.full((2, 1, 1, 1), c) for c in (0.3, -0.1)]
  out, _ = sampler.sample(
    20,
    2,
    SHAPE[1:],
    conditions[0],
    x_T=x,
    verbose=False,
    unconditional_guidance_scale=7.5,
    unconditional_conditioning=conditions[1],
  )
  stored["guided"] = out.numpy()
  mask = (draw(2, 1, 4, 4, 1) > 0).float()
  out, _ = sampler.sample(
    20, 2, SHAPE[1:], x_T=x, verbose=False, mask=mask, x0=draw(3, *SHAPE)
  )
  stored["masked"] = out.numpy()
  sampler.make_schedule(20, verbose=False)
  encoded = sampler.stochastic_encode(
    draw(3, *SHAPE), torch.tensor([15, 15]), noise=draw(4, *SHAPE)
  )
  stored["encoded"] = encoded.numpy()
  stored["decoded"] = sampler.decode(encoded, None, 15).numpy()


def k_diffusion(stored, checkout):
  package = types.ModuleType("k_diffusion")
  package.__path__ = [f"{checkout}/k_diffusion"]
  utils = types.ModuleType("k_diffusion.utils")
  utils.append_dims = lambda x, n: x.reshape(x.shape + (1,) * (n - x.ndim))
  sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
  for name in ("torchdiffeq", "torchsde"):  # of solvers that are not run here
    sys.modules[name] = types.ModuleType(name)
  sys.modules["torchdiffeq"].odeint = None
  sampling = importlib.import_module("k_diffusion.sampling")
  external = importlib.import_module("k_diffusion.external")
  model = external.DiscreteEpsDDPMDenoiser(eps, alphas_cumprod(), False)
  for steps in (20, 50):
    ends = float(model.sigma_min), float(model.sigma_max)
    for grid, sigmas in (
      ("linspace", model.get_sigmas(steps)),
      ("karras", sampling.get_sigmas_karras(steps, *ends)),
    ):
      stored[f"sigmas_{grid}_{steps}"] = sigmas.numpy()
      times = model.sigma_to_t(sigmas[:-1])
      stored[f"times_{grid}_{steps}"] = times.numpy()
      x = draw(0, *SHAPE) * sigmas[0]
      for eta in (0.5, 1.0):
        source = noises(1)
        out = sampling.sample_euler_ancestral(
          model,
          x,
          sigmas,
          eta=eta,
          disable=True,
          noise_sampler=lambda *a, source=source: next(source),
        )
        stored[f"euler_{eta}_{grid}_{steps}"] = out.numpy()
      out = sampling.sample_euler(model, x, sigmas, disable=True)
      stored[f"euler_0.0_{grid}_{steps}"] = out.numpy()
      out = sampling.sample_heun(model, x, sigmas, disable=True)
      stored[f"heun_{grid}_{steps}"] = out.numpy()
      out = sampling.sample_dpmpp_2m(model, x, sigmas, disable=True)
      stored[f"dpm_{grid}_{steps}"] = out.numpy()


def main():
  ldm, k, out = sys.argv[1:]
  sys.path.insert(0, ldm)
  stored = {}
  with torch.no_grad():
    stable_diffusion(stored)
    k_diffusion(stored, k)
  np.savez_compressed(out, **stored)


if __name__ == "__main__":
  main()
