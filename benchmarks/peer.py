"""The peer, in eager PyTorch.

diffusers' UNet2DModel and schedulers, and pytorch-fid's Inception, which needs
`pip install pytorch-fid` and a torchvision that fits torch.
"""

import os
from collections.abc import Callable

import diffusers
import numpy as np
import torch

from benchmarks.cases import CLIP_NORM, EMA_DECAY, LR, Case, images, weights


def about() -> str:
  """Versions and threads."""
  return (
    f"torch {torch.__version__}, diffusers {diffusers.__version__}, "
    f"{torch.get_num_threads()} threads"
  )


def prepare(case: Case) -> Callable[[], torch.Tensor | None]:
  """A function that runs the case once, and returns what it computes."""
  torch.set_num_threads(os.cpu_count() or 1)
  torch.manual_seed(0)
  prepare_kind = {
    "forward": _forward,
    "train": _train,
    "ddim": _sample,
    "ancestral": _sample,
    "bound": _bound,
    "inception": _inception,
  }
  x = torch.from_numpy(images(case)).permute(0, 3, 1, 2).contiguous()
  return prepare_kind[case.kind](case, x)


def _unet(case: Case) -> diffusers.UNet2DModel:
  kinds = ["", "Attn", *[""] * (len(case.widths) - 2)]
  unet = diffusers.UNet2DModel(
    sample_size=case.size,
    block_out_channels=case.widths,
    down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
    up_block_types=[f"{kind}UpBlock2D" for kind in kinds[::-1]],
    attention_head_dim=None,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
    dropout=case.dropout,
  ).eval()
  shapes = {k: tuple(v.shape) for k, v in unet.state_dict().items()}
  state = {k: torch.from_numpy(v) for k, v in weights(shapes).items()}
  unet.load_state_dict(state)
  return unet


def _forward(case: Case, x: torch.Tensor) -> Callable[[], None]:
  unet, t = _unet(case), torch.arange(case.batch)

  @torch.no_grad()
  def run():
    return unet(x, t).sample

  return run


def _train(case: Case, x: torch.Tensor) -> Callable[[], None]:
  unet = _unet(case).train()
  scheduler = diffusers.DDPMScheduler()
  params = list(unet.parameters())
  optimizer = torch.optim.Adam(params, lr=LR)
  ema = [p.detach().clone() for p in params]

  def run():
    t, eps = torch.randint(0, 1000, (case.batch,)), torch.randn_like(x)
    optimizer.zero_grad(set_to_none=True)
    predicted = unet(scheduler.add_noise(x, eps, t), t).sample
    torch.nn.functional.mse_loss(predicted, eps).backward()
    torch.nn.utils.clip_grad_norm_(params, CLIP_NORM)
    optimizer.step()
    with torch.no_grad():
      torch._foreach_lerp_(ema, params, 1 - EMA_DECAY)

  return run


def _sample(case: Case, x: torch.Tensor) -> Callable[[], None]:
  schedulers = {
    "ddim": diffusers.DDIMScheduler,
    "ancestral": diffusers.DDPMScheduler,
  }
  scheduler = schedulers[case.kind](clip_sample=False)
  if case.trivial:
    network = lambda x, t: 0.1 * x
  else:
    unet = _unet(case)
    network = lambda x, t: unet(x, t).sample
  scheduler.set_timesteps(case.steps)

  @torch.no_grad()
  def run():
    y = x
    for t in scheduler.timesteps:
      y = scheduler.step(network(y, t), t, y).prev_sample
    return y

  return run


def _bound(case: Case, x: torch.Tensor) -> Callable[[], torch.Tensor]:
  """The bound of DDPM Eq. 5 in bits per dimension, as published code loops."""
  T = case.steps
  betas = torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)
  abar = torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0)])
  variances = betas * (1 - abar[:-1]) / (1 - abar[1:])
  variances[0] = variances[1]
  if case.trivial:
    network = lambda x, t: 0.1 * x
  else:
    unet = _unet(case)
    network = lambda x, t: unet(x, t).sample

  def mean_of(x_0, x_t, t):
    c_0 = (abar[t - 1].sqrt() * betas[t - 1] / (1 - abar[t])).item()
    c_t = ((1 - betas[t - 1]).sqrt() * (1 - abar[t - 1]) / (1 - abar[t])).item()
    return c_0 * x_0 + c_t * x_t

  def cdf(z):
    return 0.5 * (1 + torch.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))

  def decoder(mean, std):
    upper = cdf((x - mean + 1 / 255) / std)
    lower = cdf((x - mean - 1 / 255) / std)
    mass = torch.where(x < -0.999, upper, upper - lower)
    mass = torch.where(x > 0.999, 1 - lower, mass)
    return -mass.clamp(min=1e-12).log()

  @torch.no_grad()
  def run():
    alpha, sigma = abar[T].sqrt().item(), (1 - abar[T]).sqrt().item()
    kl = 0.5 * (sigma**2 - 1 - 2 * np.log(sigma) + (alpha * x) ** 2)
    total = kl.mean((1, 2, 3))
    for t in range(T, 0, -1):
      alpha, sigma = abar[t].sqrt().item(), (1 - abar[t]).sqrt().item()
      x_t = alpha * x + sigma * torch.randn_like(x)
      eps = network(x_t, torch.full((len(x),), t - 1))
      x_0 = ((x_t - sigma * eps) / alpha).clamp(-1, 1)
      mean, std = mean_of(x_0, x_t, t), variances[t - 1].sqrt().item()
      if t > 1:
        nats = 0.5 * ((mean - mean_of(x, x_t, t)) / std) ** 2
      else:
        nats = decoder(mean, std)
      total += nats.mean((1, 2, 3))
    return total / np.log(2)

  return run


def _inception(case: Case, x: torch.Tensor) -> Callable[[], None]:
  from pytorch_fid import inception

  nets, build = [], inception._inception_v3
  # Random weights in place of a download: the speed is the same.
  inception._inception_v3 = lambda *args, **kwargs: (
    nets.append(build(*args, **kwargs)) or nets[-1]
  )
  inception.load_state_dict_from_url = lambda *args, **kwargs: nets[
    -1
  ].state_dict()
  network = inception.InceptionV3(normalize_input=False).eval()
  x = x.clamp(-1, 1)

  @torch.no_grad()
  def run():
    network(x)

  return run
