"""Score SDE's solvers: predictors, Langevin correctors, and the two together.

A predictor is a `Sampler`. A corrector `(key, x, t) -> x` moves x at its own
noise level t towards q(x_t). `predictor_corrector` makes a sampler of both.

For a step from t to s < t the solvers take the forward step's drift and the
variance of the noise. Of an SDE those are f(x, t) (t - s) and g(t)^2 (t - s),
of a discretised process (r - 1) x and b of its `transition`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import random
from jaxgen.diffusion.denoisers import Denoiser
from jaxgen.diffusion.gaussian import normal_like, transition
from jaxgen.diffusion.predictions import score_of
from jaxgen.diffusion.processes import Process, expand, marginal
from jaxgen.diffusion.samplers import Sampler, no_memory
from jaxgen.types import Array, Key

# (key, x [B, ...], t []) -> x
Corrector = Callable[[Key, Array, Array], Array]


def euler_maruyama(process: Process, denoiser: Denoiser) -> Sampler:
  """Euler-Maruyama on the reverse SDE (Song et al. 2021, Eq. 6, App. D).

  x_s = x_t - (f(x_t, t) - g(t)^2 score) (t - s) + g(t) sqrt(t - s) z. On a
  discretised process, which has no f and g, it is `reverse_diffusion`. A step
  to sigma_s = 0 adds no noise.
  """
  return _reverse(process, denoiser, _euler_increments, noise=True)


def reverse_diffusion(
  process: Process, denoiser: Denoiser, probability_flow: bool = False
) -> Sampler:
  """The reverse diffusion sampler (Song et al. 2021, App. E, Eq. 46).

  x_s = (2 - r) x_t + b score + sqrt(b) z with (r, b) of `transition`: the
  forward step's own discretisation, turned around. With VE's r = 1 and
  b = sigma_t^2 - sigma_s^2, with DDPM's r = sqrt(1 - beta_t) and b = beta_t. A
  step to sigma_s = 0 adds no noise.

  Args:
    process: the forward process.
    denoiser: the model.
    probability_flow: take half of b and no noise, the "probability flow"
      predictor of the paper's Table 1 (Eq. 13 discretised alike).
  """
  return _reverse(process, denoiser, _increments, noise=not probability_flow)


def euler_ode(process: Process, denoiser: Denoiser) -> Sampler:
  """Euler's method on the probability flow ODE (Song et al. 2021, Eq. 13).

  x_s = x_t - (f(x_t, t) - g(t)^2 score / 2) (t - s). It runs in both
  directions. On a discretised process it is `reverse_diffusion`'s probability
  flow.
  """
  return _reverse(process, denoiser, _euler_increments, noise=False)


def heun_ode(process: Process, denoiser: Denoiser) -> Sampler:
  """Heun's method on the probability flow ODE (Song et al. 2021, Eq. 13).

  x_s = x_t - (t - s) (v + v') / 2, v being `probability_flow` at t and v' that
  at s, where an Euler step leads. A discretised process has no velocities but
  integrals over the step: log r of the drift's rate and, to second order,
  sigma_t^2 / r - r sigma_s^2 of g^2, with r = alpha_t / alpha_s.
  A step to sigma_s = 0 is Euler's. `edm_heun` is as accurate in fewer
  steps, and does not mind the last betas of a cosine schedule.
  """
  increments = _heun_increments(process, denoiser)

  def step(key, x_t, t, s, memory):
    del key
    first = increments(x_t, t, t, s)
    _, sigma_s = marginal(process, s, x_t)

    def heun(_):
      return x_t - (first + increments(x_t - first, s, t, s)) / 2

    euler = lambda _: x_t - first
    return jax.lax.cond(sigma_s > 0, heun, euler, None), memory

  return Sampler(no_memory, step, process.T, evaluations=2)


def _heun_increments(process, denoiser):
  """(x, now, t, s) -> the flow's increment over [s, t] by its rate now."""
  if hasattr(process, "drift"):
    velocity = probability_flow(process, denoiser)
    return lambda x, now, t, s: (t - s) * velocity(x, now)

  def increment(x, now, t, s):
    alpha_t, sigma_t = marginal(process, t, x)
    alpha_s, sigma_s = marginal(process, s, x)
    ratio = alpha_t / alpha_s
    variance = sigma_t**2 / ratio - sigma_s**2 * ratio
    score = score_of(process, denoiser(x, now), now)
    return jnp.log(ratio) * x - variance / 2 * score

  return increment


def probability_flow(
  process: Process, denoiser: Denoiser
) -> Callable[[Array, Array], Array]:
  """(x, t) -> dx / dt = f(x, t) - g(t)^2 score / 2 (Song et al. 2021, Eq. 13).

  Raises:
    ValueError: the process has no drift and diffusion, as a discrete one.
  """
  if not hasattr(process, "drift"):
    raise ValueError(
      "the probability flow ODE needs a continuous process such as VPSDE, got "
      f"{type(process).__name__}"
    )
  sde: Any = process

  def velocity(x: Array, t: Array) -> Array:
    score = score_of(process, denoiser(x, t), t)
    return sde.drift(x, t) - expand(sde.diffusion(t), x) ** 2 * score / 2

  return velocity


def langevin(
  process: Process,
  denoiser: Denoiser,
  snr: float,
  num_scales: int = 1000,
  axis_name: str | None = None,
) -> Corrector:
  """One step of Langevin dynamics (Song et al. 2021, Algorithms 4 and 5).

  x + step score + sqrt(2 step) z, step = 2 alpha (snr |z| / |score|)^2. alpha
  is 1 - beta_t of DDPM, 1 of VE, and that of VP for sub-VP.

  The norms are averaged over the batch, as in the released code: **samples
  depend on the batch they are drawn in**, also where every example has a key of
  its own. Under `jit` a batch sharded over devices is averaged as a whole.

  Args:
    process: the forward process.
    denoiser: the model.
    snr: the paper's r: 0.16 for VE on CIFAR-10.
    num_scales: N of a continuous process: alpha is that of steps of T / N.
    axis_name: of the devices of a `pmap` or `shard_map`, whose norms are
      averaged with `pmean`.
  """
  _check_snr(snr)

  def step_size(z, score, t, x):
    norms = [
      jax.vmap(jnp.linalg.norm)(a.reshape(len(a), -1)).mean()
      for a in (z, score)
    ]
    if axis_name is not None:
      norms = [jax.lax.pmean(norm, axis_name) for norm in norms]
    ratio = snr * norms[0] / norms[1]
    return 2 * _kept(process, t, num_scales) * ratio**2

  return _corrector(process, denoiser, step_size)


def annealed_langevin(
  process: Process, denoiser: Denoiser, snr: float, num_scales: int = 1000
) -> Corrector:
  """One step of annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1).

  x + step score + sqrt(2 step) z, step = 2 alpha (snr sigma_t)^2, alpha as in
  `langevin`: score SDE's form. NCSN's step eps (sigma_t / sigma_1)^2, sigma_1
  the smallest level, is that of snr = sqrt(eps / 2) / sigma_1 (`ncsn_snr`). It
  does not depend on the batch.
  """
  _check_snr(snr)

  def step_size(z, score, t, x):
    del z, score
    _, sigma = marginal(process, t, x)
    return 2 * _kept(process, t, num_scales) * (snr * sigma) ** 2

  return _corrector(process, denoiser, step_size)


def ncsn_snr(eps: float, sigma_min: float) -> float:
  """The snr that makes `annealed_langevin` NCSN's of step size eps.

  sqrt(eps / 2) / sigma_min, with eps as NCSN's released code has it: half of
  the epsilon of the papers' listing (Song & Ermon 2019, Algorithm 1).
  """
  return float(np.sqrt(eps / 2) / sigma_min)


def no_predictor(process: Process, denoiser: Denoiser | None = None) -> Sampler:
  """Leaves x as it is: with it, `predictor_corrector` only corrects.

  Args:
    process: the forward process.
    denoiser: a step to sigma_s = 0 then gives the estimate of x_0, NCSNv2's
      last step (Song & Ermon 2020; Tweedie's formula); None leaves x alone.
  """

  def step(key, x_t, t, s, memory):
    del key
    if denoiser is None:
      return x_t, memory
    _, sigma_s = marginal(process, s, x_t)
    estimate = lambda x: denoiser(x, t).x_0
    return jax.lax.cond(sigma_s > 0, lambda x: x, estimate, x_t), memory

  return Sampler(no_memory, step, process.T, evaluations=0)


def predictor_corrector(
  predictor: Sampler,
  corrector: Corrector,
  num_corrector_steps: int = 1,
  corrector_first: bool = True,
) -> Sampler:
  """Predictor-corrector sampling (Song et al. 2021, Algorithm 1).

  The released code, and so the published numbers, correct x at t and then
  predict x at s. The paper's listing predicts first and then corrects at s; at
  sigma_s = 0 nothing is corrected.

  Args:
    predictor: any sampler.
    corrector: `langevin`, `annealed_langevin`, or another.
    num_corrector_steps: per step of the predictor.
    corrector_first: the released code's order; False is the paper's.
  """
  if num_corrector_steps < 0:
    raise ValueError(
      f"num_corrector_steps must be at least 0, got {num_corrector_steps}"
    )

  def correct(key, x, t):
    once = lambda i, x: corrector(random.fold_in(key, i + 1), x, t)
    return jax.lax.fori_loop(0, num_corrector_steps, once, x)

  def step(key, x_t, t, s, memory):
    predict_key = random.fold_in(key, 0)
    if corrector_first:
      x_t = correct(key, x_t, t)
    x_s, memory = predictor.step(predict_key, x_t, t, s, memory)
    return x_s if corrector_first else correct(key, x_s, s), memory

  evaluations = predictor.evaluations + num_corrector_steps
  return Sampler(predictor.init, step, predictor.T, evaluations)


def final_denoise(
  sampler: Sampler, denoiser: Denoiser, t_end: float | int
) -> Sampler:
  """The sampler, with the estimate of x_0 in the place of x at the grid's end.

  Tweedie's formula (x + sigma^2 score) / alpha at times[-1]: the last step of
  score SDE's samplers, without which FID suffers (Song et al. 2021, App. G). A
  grid that ends at sigma = 0 has no need of it.

  Args:
    sampler: any.
    denoiser: the model.
    t_end: times[-1], where sigma > 0.
  """

  def step(key, x_t, t, s, memory):
    x_s, memory = sampler.step(key, x_t, t, s, memory)
    ends = s == jnp.asarray(t_end, jnp.result_type(s))
    estimate = lambda x: denoiser(x, s).x_0.astype(x.dtype)
    return jax.lax.cond(ends, estimate, lambda x: x, x_s), memory

  return sampler._replace(step=step)


def _reverse(process, denoiser, increments, noise):
  """x_s = x_t - drift + variance score + noise, or its probability flow."""

  def step(key, x_t, t, s, memory):
    drift, variance = increments(process, x_t, t, s)
    score = score_of(process, denoiser(x_t, t), t)
    if not noise:
      return x_t - drift + variance / 2 * score, memory
    _, sigma_s = marginal(process, s, x_t)
    std = jnp.where(sigma_s > 0, jnp.sqrt(jnp.maximum(variance, 0)), 0)
    mean = x_t - drift + variance * score
    return mean + std * normal_like(key, x_t), memory

  return Sampler(no_memory, step, process.T)


def _increments(process: Process, x: Array, t: Array, s: Array):
  """The forward step from s to t: its drift at x, and its variance."""
  r, b = transition(process, t, s, x)
  return (r - 1) * x, b


def _euler_increments(process: Any, x: Array, t: Array, s: Array):
  """The same by Euler-Maruyama, where the process has f and g."""
  if not hasattr(process, "drift"):
    return _increments(process, x, t, s)
  gap = t - s
  variance = expand(process.diffusion(t), x) ** 2 * gap
  return process.drift(x, t) * gap, variance


def _corrector(process, denoiser, step_size) -> Corrector:
  """Langevin dynamics with a rule for the step; sigma_t = 0 is left alone."""

  def moved(key, x, t):
    z = normal_like(key, x)
    score = score_of(process, denoiser(x, t), t)
    step = step_size(z, score, t, x)
    return (x + step * score + jnp.sqrt(2 * step) * z).astype(x.dtype)

  def corrector(key, x, t):
    still = lambda key, x, t: x
    return jax.lax.cond(process.sigma(t) > 0, moved, still, key, x, t)

  return corrector


def _kept(process: Process, t: Array, num_scales: int) -> Array:
  """The share of x_t's variance that comes from the level before it."""
  if isinstance(process.T, int):
    before = jnp.asarray(t) - 1
  else:
    before = jnp.maximum(t - process.T / num_scales, 0)
  return (process.alpha(t) / process.alpha(before)) ** 2


def _check_snr(snr: float) -> None:
  if isinstance(snr, int | float) and not snr > 0:
    raise ValueError(f"snr must be positive, got {snr}")
