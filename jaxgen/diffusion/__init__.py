"""Diffusion in five words: process, prediction, denoiser, sampler, times."""

from jaxgen.diffusion.denoisers import (
  Denoiser,
  clip_x_0,
  eps_denoiser,
  mean_denoiser,
  score_denoiser,
  velocity_denoiser,
  x_0_denoiser,
)
from jaxgen.diffusion.gaussian import (
  posterior,
  prior,
  q_sample,
  snr,
  transition,
)
from jaxgen.diffusion.likelihood import VLB, vlb_bits_per_dim
from jaxgen.diffusion.loop import sample, trajectory
from jaxgen.diffusion.losses import (
  mean_loss,
  simple_loss,
  velocity_loss,
  vlb_loss,
  x_0_loss,
)
from jaxgen.diffusion.predictions import (
  Prediction,
  from_eps,
  from_mean,
  from_score,
  from_velocity,
  from_x_0,
  score_of,
  velocity_of,
)
from jaxgen.diffusion.processes import (
  VESDE,
  VPSDE,
  DiscreteProcess,
  Process,
  SubVPSDE,
  marginal,
)
from jaxgen.diffusion.reverse import FIXED_LARGE, FIXED_SMALL, p_mean_variance
from jaxgen.diffusion.samplers import Sampler, ancestral, ddim
from jaxgen.diffusion.schedules import (
  cosine_betas,
  geometric_sigmas,
  linear_betas,
  scaled_linear_betas,
)
from jaxgen.diffusion.times import (
  continuous_times,
  descending_times,
  quadratic_times,
  random_times,
  respaced_times,
  uniform_times,
)

__all__ = [
  "FIXED_LARGE",
  "FIXED_SMALL",
  "VESDE",
  "VLB",
  "VPSDE",
  "Denoiser",
  "DiscreteProcess",
  "Prediction",
  "Process",
  "Sampler",
  "SubVPSDE",
  "ancestral",
  "clip_x_0",
  "continuous_times",
  "cosine_betas",
  "ddim",
  "descending_times",
  "eps_denoiser",
  "from_eps",
  "from_mean",
  "from_score",
  "from_velocity",
  "from_x_0",
  "geometric_sigmas",
  "linear_betas",
  "marginal",
  "mean_denoiser",
  "mean_loss",
  "p_mean_variance",
  "posterior",
  "prior",
  "q_sample",
  "quadratic_times",
  "random_times",
  "respaced_times",
  "sample",
  "scaled_linear_betas",
  "score_denoiser",
  "score_of",
  "simple_loss",
  "snr",
  "trajectory",
  "transition",
  "uniform_times",
  "velocity_denoiser",
  "velocity_loss",
  "velocity_of",
  "vlb_bits_per_dim",
  "vlb_loss",
  "x_0_denoiser",
  "x_0_loss",
]
