"""Score SDE's ways to sample: predictor, corrector, or the adaptive ODE."""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

import jaxgen.diffusion as jd
from experiments.models import Model
from experiments.sampling import Draw
from experiments.score_sde.model import EPS

Predictor = Literal[
  "ancestral", "reverse", "flow", "euler_maruyama", "heun", "none", "ode"
]


@dataclasses.dataclass(frozen=True)
class ScoreSampling:
  """How to sample.

  Attributes:
    predictor: "ancestral" (Eq. 4 and 47), "reverse" diffusion (Eq. 46), its
      probability "flow", "euler_maruyama", "heun" of the ODE; "none" only
      corrects; "ode" is the adaptive RK45 of section 4.3, which takes no
      corrector and no steps.
    corrector: "langevin" (Algorithms 4 and 5), "annealed" Langevin dynamics of
      NCSN, or "none".
    steps: of the predictor.
    corrector_steps: for each of them.
    snr: of the corrector; the configuration's if 0.
    corrector_first: the released code's order, not the paper's listing.
    denoise: end with the estimate of x_0.
    tolerance: of "ode".
  """

  predictor: Predictor = "reverse"
  corrector: Literal["langevin", "annealed", "none"] = "langevin"
  steps: int = 1000
  corrector_steps: int = 1
  snr: float = 0.0
  corrector_first: bool = True
  denoise: bool = True
  tolerance: float = 1e-5


def make_sampler(
  model: Model, denoiser: jd.Denoiser, how: ScoreSampling
) -> tuple[jd.Sampler, np.ndarray]:
  """(sampler, times) of a way with steps."""
  process, config = model.process, model.config
  discrete = isinstance(process.T, int)
  if discrete:
    times = jd.descending_times(process.T, how.steps)
  else:
    times = jd.continuous_times(process, how.steps, EPS[config.sde])
  predictor = _predictor(model, denoiser, how)
  if how.corrector == "none":
    sampler = predictor
  else:
    langevin = how.corrector == "langevin"
    make = jd.langevin if langevin else jd.annealed_langevin
    corrector = make(process, denoiser, how.snr or config.snr)
    sampler = jd.predictor_corrector(
      predictor, corrector, how.corrector_steps, how.corrector_first
    )
  if how.denoise and not discrete:
    sampler = jd.final_denoise(sampler, denoiser, times[-1])
  return sampler, times


def make_draw(model: Model, how: ScoreSampling) -> Draw:
  """The jitted (params, keys) -> images in [-1, 1]."""
  config, process = model.config, model.process
  size = config.image_size

  @jax.jit
  def draw(params, keys):
    denoiser = model.denoiser(params, None)
    shape = (keys.shape[0], size, size, config.image_channels)
    x_T = jd.prior(process, keys, shape)
    if how.predictor == "ode":
      return flow_down(model, denoiser, x_T, how).x
    sampler, times = make_sampler(model, denoiser, how)
    return jd.sample(keys, x_T, times, sampler)

  return draw


def flow_down(
  model: Model, denoiser: jd.Denoiser, x_T: Any, how: ScoreSampling
) -> jd.OdeFlow:
  """Images of latents by the adaptive ODE, with NFE."""
  end = EPS[model.config.sde]
  tolerances = jd.Tolerances(how.tolerance, how.tolerance)
  flow = jd.ode_sample(model.process, denoiser, x_T, end, tolerances)
  if how.denoise:
    x_0 = denoiser(flow.x, jax.numpy.asarray(end)).x_0
    return jd.OdeFlow(x_0, flow.num_evaluations + 1)
  return flow


def evaluations(model: Model, how: ScoreSampling) -> int:
  """NFE of a way with steps, without the final estimate of x_0."""
  sampler, times = make_sampler(model, model.denoiser({}, None), how)
  return sampler.evaluations * (len(times) - 1)


def _predictor(
  model: Model, denoiser: jd.Denoiser, how: ScoreSampling
) -> jd.Sampler:
  process = model.process
  if how.predictor == "none":
    last = how.denoise and isinstance(process.T, int)
    return jd.no_predictor(process, denoiser if last else None)
  if how.predictor == "ancestral":
    # As released: DDPM's beta for VP, the posterior variance for VE.
    ve = model.config.sde == "ve"
    variance = jd.FIXED_SMALL if ve else jd.FIXED_LARGE
    return jd.ancestral(process, denoiser, variance)
  if how.predictor == "flow":
    return jd.reverse_diffusion(process, denoiser, probability_flow=True)
  kinds: dict[str, Any] = {
    "reverse": jd.reverse_diffusion,
    "euler_maruyama": jd.euler_maruyama,
    "heun": jd.heun_ode,
  }
  return kinds[how.predictor](process, denoiser)
