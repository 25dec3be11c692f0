"""The peer: score_sde_pytorch's algorithms, in eager PyTorch and scipy."""

import math
import os
from collections.abc import Callable

import numpy as np
import torch
from scipy import integrate

from benchmarks.score_cases import Case, weights


def about() -> str:
  """Versions and threads."""
  return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


class Sde:
  """VE or VP with its levels (Song et al. 2021, Eq. 9 and 11)."""

  def __init__(self, name: str, steps: int) -> None:
    """Tables of the levels."""
    self.ve = name == "ve"
    self.sigmas = torch.from_numpy(np.geomspace(0.01, 50, steps)).float()
    self.betas = torch.linspace(0.1 / steps, 20 / steps, steps)

  def marginal(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, sigma)."""
    if self.ve:
      return torch.ones_like(t), 0.01 * 5000**t
    log_alpha = -0.25 * t**2 * 19.9 - 0.05 * t
    return log_alpha.exp(), (1 - (2 * log_alpha).exp()).sqrt()

  def rates(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(f(x, t) / x, g(t)^2)."""
    if self.ve:
      g = 0.01 * 5000**t * math.sqrt(2 * math.log(5000))
      return torch.zeros_like(t), g**2
    beta = 0.1 + t * 19.9
    return -0.5 * beta, beta


def prepare(case: Case) -> Callable[[], int]:
  """A function that runs the case once and counts the evaluations."""
  torch.set_num_threads(os.cpu_count() or 1)
  torch.manual_seed(0)
  sde = Sde(case.sde, case.steps)
  kernels = [
    torch.from_numpy(w).permute(3, 2, 0, 1).contiguous()
    for w in weights(case).values()
  ]

  def score(x, t):
    _, sigma = sde.marginal(t)
    scale = (1 + sigma**2).sqrt()[:, None, None, None]
    hidden = torch.tanh(
      torch.nn.functional.conv2d(x / scale, kernels[0], padding=1)
    )
    out = torch.nn.functional.conv2d(hidden, kernels[1], padding=1)
    return (out / 10 - x / scale) / scale

  run = _pc if case.kind == "pc" else _likelihood
  return lambda: run(case, sde, score)


@torch.no_grad()
def _pc(case: Case, sde: Sde, score) -> int:
  """A Langevin step, then one of reverse diffusion, at each time."""
  x = torch.randn(case.batch, 3, case.size, case.size) * (50 if sde.ve else 1)
  flat_norm = lambda a: a.reshape(len(a), -1).norm(dim=-1).mean()
  for t in torch.linspace(1, 1e-3, case.steps):
    times = torch.ones(case.batch) * t
    i = int(t * (case.steps - 1))
    alpha = 1.0 if sde.ve else 1 - sde.betas[i]
    gradient, noise = score(x, times), torch.randn_like(x)
    ratio = case.snr * flat_norm(noise) / flat_norm(gradient)
    step = 2 * alpha * ratio**2
    x = x + step * gradient + (2 * step).sqrt() * noise
    if sde.ve:
      below = sde.sigmas[i - 1] if i else torch.zeros(())
      drift, variance = 0.0, sde.sigmas[i] ** 2 - below**2
    else:
      drift, variance = (1 - sde.betas[i]).sqrt() - 1, sde.betas[i]
    x = x - drift * x + variance * score(x, times)
    x = x + variance.sqrt() * torch.randn_like(x)
  return 2 * case.steps


def _likelihood(case: Case, sde: Sde, score) -> int:
  """scipy's RK45 on the host, Hutchinson by reverse mode, as released."""
  shape = (case.batch, 3, case.size, case.size)
  data = torch.rand(shape)
  probe = torch.randint(0, 2, shape).float() * 2 - 1

  def velocity(x, t):
    f, g2 = (a[:, None, None, None] for a in sde.rates(t))
    return f * x - 0.5 * g2 * score(x, t)

  def rates(t, state):
    x = torch.from_numpy(state[: -case.batch].reshape(shape)).float()
    times = torch.ones(case.batch) * t
    with torch.no_grad():
      change = velocity(x, times)
    x.requires_grad_(True)
    (product,) = torch.autograd.grad((velocity(x, times) * probe).sum(), x)
    divergence = (product * probe).sum((1, 2, 3))
    return np.concatenate([change.numpy().reshape(-1), divergence.numpy()])

  start = np.concatenate([data.numpy().reshape(-1), np.zeros(case.batch)])
  done = integrate.solve_ivp(
    rates,
    (1e-5, 1.0),
    start,
    rtol=case.tolerance,
    atol=case.tolerance,
    method="RK45",
  )
  return int(done.nfev)
