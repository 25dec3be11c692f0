"""Our side of score SDEs, compiled."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.ours import about as about
from benchmarks.score_cases import Case, weights
from jaxgen import diffusion as jd
from jaxgen.diffusion.processes import marginal


def prepare(case: Case) -> Callable[[], int]:
  """A function that runs the case once and counts the evaluations."""
  process = jd.VESDE() if case.sde == "ve" else jd.VPSDE()
  shape = (case.batch, case.size, case.size, 3)
  run = _pc if case.kind == "pc" else _likelihood
  compiled = jax.jit(lambda w, x: run(case, process, _denoiser(process, w), x))
  w, x = weights(case), jax.random.uniform(jax.random.key(0), shape)

  def once() -> int:
    _, evaluations = jax.block_until_ready(compiled(w, x))
    return int(evaluations)

  return once


def _denoiser(process, w) -> jd.Denoiser:
  def convolution(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=layout
    )

  def network(x, t):
    _, sigma = marginal(process, t, x)
    scale = jnp.sqrt(1 + sigma**2)
    hidden = jnp.tanh(convolution(x / scale, w["first"]))
    return (convolution(hidden, w["second"]) / 10 - x / scale) / scale

  return jd.score_denoiser(process, network)


def _pc(case, process, denoiser, x):
  times = jd.continuous_times(process, case.steps, 1e-3)
  sampler = jd.predictor_corrector(
    jd.reverse_diffusion(process, denoiser),
    jd.langevin(process, denoiser, case.snr),
  )
  x_T = jd.prior(process, jax.random.key(1), x.shape)
  out = jd.sample(jax.random.key(2), x_T, times, sampler)
  return out, jnp.asarray(case.steps * sampler.evaluations)


def _likelihood(case, process, denoiser, x):
  tolerances = jd.Tolerances(case.tolerance, case.tolerance)
  found = jd.ode_log_likelihood(
    process, denoiser, x, jax.random.key(1), tolerances=tolerances
  )
  return found.log_likelihood, found.num_evaluations
