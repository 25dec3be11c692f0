"""Multistep samplers: steps that remember the network's earlier estimates."""

import jax
import jax.numpy as jnp

from jaxgen.diffusion.denoisers import Denoiser
from jaxgen.diffusion.processes import Process, marginal
from jaxgen.diffusion.samplers import Sampler
from jaxgen.types import Array


def dpm_solver_pp_2m(process: Process, denoiser: Denoiser) -> Sampler:
  """DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2).

  With lambda = log(alpha / sigma), h = lambda_s - lambda_t and r = h_last / h,

    D = (1 + 1 / (2 r)) x_0(t) - 1 / (2 r) x_0(last)
    x_s = (sigma_s / sigma_t) x_t - alpha_s (exp(-h) - 1) D.

  One call of the network a step. The first step, and one that ends at data,
  where h is infinite, are of first order: D = x_0(t), which is DDIM.
  """

  def init(x: Array) -> tuple[Array, Array]:
    return jnp.zeros_like(x), jnp.zeros(())  # x_0 and h of the last step

  def step(key, x_t, t, s, memory):
    del key
    last, h_last = memory
    x_0 = denoiser(x_t, t).x_0
    alpha_t, sigma_t = marginal(process, t, x_t)
    alpha_s, sigma_s = marginal(process, s, x_t)
    shrink = alpha_t * sigma_s / (alpha_s * sigma_t)  # exp(-h)
    h = -jnp.log(jnp.maximum(shrink, 1e-30))
    second = (h_last > 0) & (sigma_s > 0)
    weight = jnp.where(second, h / (2 * jnp.where(second, h_last, 1)), 0)
    d = x_0 + weight * (x_0 - last)
    x_s = sigma_s / sigma_t * x_t + alpha_s * (1 - shrink) * d
    return x_s, (x_0, h)

  return Sampler(init, step, process.T)


def plms(process: Process, denoiser: Denoiser) -> Sampler:
  """Pseudo linear multistep (Liu et al. 2022, Eq. 12), LDM's and SD1's PLMS.

  A DDIM step along a mean of the last four estimates of eps,
  (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24; the second and third step use the
  formulas of two and three estimates. The first looks ahead: it takes the mean
  of eps here and at the end of a DDIM step, the only step with two calls.
  """
  weights = jnp.array(
    [
      [1 / 2, 1 / 2, 0, 0],  # its second estimate is the one ahead
      [3 / 2, -1 / 2, 0, 0],
      [23 / 12, -16 / 12, 5 / 12, 0],
      [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
  )

  def move(x_t, eps, t, s):
    alpha_t, sigma_t = marginal(process, t, x_t)
    alpha_s, sigma_s = marginal(process, s, x_t)
    return alpha_s * (x_t - sigma_t * eps) / alpha_t + sigma_s * eps

  def init(x: Array) -> tuple[Array, Array]:
    return jnp.zeros((3, *x.shape), x.dtype), jnp.zeros((), jnp.int32)

  def step(key, x_t, t, s, memory):
    del key
    earlier, count = memory  # the newest first
    eps = denoiser(x_t, t).eps

    def look_ahead(_):
      return denoiser(move(x_t, eps, t, s), s).eps

    one = jax.lax.cond(count == 0, look_ahead, lambda _: earlier[0], None)
    w = weights[count]
    mean = w[0] * eps + w[1] * one + w[2] * earlier[1] + w[3] * earlier[2]
    earlier = jnp.concatenate([eps[None], earlier[:2]])
    return move(x_t, mean, t, s), (earlier, jnp.minimum(count + 1, 3))

  return Sampler(init, step, process.T)
