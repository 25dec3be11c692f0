"""The peer, in eager PyTorch.

diffusers' UNet2DModel and schedulers, and pytorch-fid's Inception, which needs
`pip install pytorch-fid` and a torchvision that fits torch.
"""

import os
from collections.abc import Callable

import diffusers
import torch

from benchmarks.cases import CLIP_NORM, EMA_DECAY, LR, Case


def about() -> str:
  """Versions and threads."""
  return (
    f"torch {torch.__version__}, diffusers {diffusers.__version__}, "
    f"{torch.get_num_threads()} threads"
  )


def prepare(case: Case) -> Callable[[], None]:
  """A function that runs the case once."""
  torch.set_num_threads(os.cpu_count() or 1)
  torch.manual_seed(0)
  prepare_kind = {
    "forward": _forward,
    "train": _train,
    "ddim": _sample,
    "ancestral": _sample,
    "inception": _inception,
  }
  return prepare_kind[case.kind](case, _noise(case))


def _noise(case: Case) -> torch.Tensor:
  return torch.randn(case.batch, case.channels, case.size, case.size)


def _unet(case: Case) -> diffusers.UNet2DModel:
  kinds = ["", "Attn", *[""] * (len(case.widths) - 2)]
  return diffusers.UNet2DModel(
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


def _forward(case: Case, x: torch.Tensor) -> Callable[[], None]:
  unet, t = _unet(case), torch.arange(case.batch)

  @torch.no_grad()
  def run():
    unet(x, t)

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
