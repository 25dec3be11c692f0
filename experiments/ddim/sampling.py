"""The paper's ways to sample: eta, sigma-hat and tau.

DDIM trains nothing of its own: it samples DDPM's networks. Its CIFAR-10 and
LSUN models are DDPM's; `python -m experiments.ddpm.train celeba64` trains the
CelebA one.
"""

from typing import Any

from experiments.sampling import Sampling

STEPS = (10, 20, 50, 100, 1000)
ETAS = ("0.0", "0.2", "0.5", "1.0", "sigma-hat")


def sampling(config: Any, steps: int, eta: str) -> Sampling:
  """S steps of the paper's sampler for a data set.

  tau is quadratic for CIFAR-10, linear elsewhere (App. D.2), and all of 1, ...,
  T for S = T. sigma-hat (section 5) has the mean of eta = 1 and the noise of
  DDPM's larger variance: an ancestral step. As in the official code, it clips
  x_0 and the others do not.

  Args:
    config: of the model.
    steps: S.
    eta: a number, or "sigma-hat".
  """
  grid = "quadratic" if config.dataset == "cifar10" else "uniform"
  if steps == config.T:
    grid = "even"
  if eta == "sigma-hat":
    return Sampling("ddpm", steps, grid, variance="large", clip=True)
  return Sampling("ddim", steps, grid, eta=float(eta), clip=False)
