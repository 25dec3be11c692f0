"""Exact denoisers: data whose every marginal is known in closed form.

For data from a mixture of isotropic Gaussians, x_t is a mixture too, with
component means alpha m_k and variances alpha^2 s_k^2 + sigma^2. The best
possible network of every parameterisation follows by two independent routes:
x_0 from Bayes' rule, the score by automatic differentiation of log q(x_t).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

import jaxgen.diffusion as jd


class Mixture(NamedTuple):
  """sum_k weights_k N(means_k, stds_k^2 I): shapes [K], [K, D], [K]."""

  weights: np.ndarray
  means: np.ndarray
  stds: np.ndarray


GAUSSIAN = Mixture(np.ones(1), np.array([[1.0]]), np.array([0.5]))
MIXTURE_1D = Mixture(
  np.array([0.3, 0.7]), np.array([[-1.0], [0.8]]), np.array([0.3, 0.15])
)
MIXTURE_2D = Mixture(
  np.array([0.4, 0.6]),
  np.array([[-0.9, 0.4], [0.6, -0.5]]),
  np.array([0.2, 0.3]),
)

PROCESSES = {
  "linear": jd.DiscreteProcess.from_betas(jd.linear_betas()),
  "cosine": jd.DiscreteProcess.from_betas(jd.cosine_betas(1000)),
  "smld": jd.DiscreteProcess.from_sigmas(
    jd.geometric_sigmas(1000, 50.0, 0.01)[::-1]
  ),
  "vp": jd.VPSDE(),
  "subvp": jd.SubVPSDE(),
  "ve": jd.VESDE(),
  "karras": jd.KarrasProcess(),
}


def grid(process, n):
  """n steps from T to the end of sampling."""
  if isinstance(process, jd.KarrasProcess):
    return jd.karras_times(n + 1)[:-1]
  if isinstance(process.T, int):
    return jd.descending_times(process.T, n)
  return jd.continuous_times(process, n, 1e-5)


def coefficients(process, t):
  return process.alpha(jnp.asarray(t)), process.sigma(jnp.asarray(t))


def log_density(mixture, alpha, sigma, x):
  """log q(x_t) of one x `[D]`."""
  variances = alpha**2 * mixture.stds**2 + sigma**2
  squared = ((x[None] - alpha * mixture.means) ** 2).sum(-1)
  dim = mixture.means.shape[1]
  logs = -0.5 * squared / variances - 0.5 * dim * jnp.log(
    2 * jnp.pi * variances
  )
  return logsumexp(logs + jnp.log(mixture.weights))


def posterior_mean(mixture, alpha, sigma, x):
  """E[x_0 | x_t] of one x `[D]`, by Bayes' rule in each component."""
  variances = alpha**2 * mixture.stds**2 + sigma**2
  gaps = x[None] - alpha * mixture.means
  dim = mixture.means.shape[1]
  logits = (
    jnp.log(mixture.weights)
    - 0.5 * (gaps**2).sum(-1) / variances
    - 0.5 * dim * jnp.log(variances)
  )
  gains = alpha * mixture.stds**2 / variances
  means = mixture.means + gains[:, None] * gaps
  return (jax.nn.softmax(logits)[:, None] * means).sum(0)


def networks(process, mixture):
  """The exact network of each parameterisation, x `[B, D]`, t `[B]`."""

  def vectorised(one):
    def network(x, t):
      alpha, sigma = process.alpha(t), process.sigma(t)
      return jax.vmap(one)(alpha, sigma, x)

    return network

  def score(alpha, sigma, x):
    return jax.grad(lambda y: log_density(mixture, alpha, sigma, y))(x)

  def eps(alpha, sigma, x):
    return -sigma * score(alpha, sigma, x)

  def x_0(alpha, sigma, x):
    return posterior_mean(mixture, alpha, sigma, x)

  def velocity(alpha, sigma, x):
    return alpha * eps(alpha, sigma, x) - sigma * x_0(alpha, sigma, x)

  named = {"score": score, "eps": eps, "x_0": x_0, "velocity": velocity}
  return {name: vectorised(one) for name, one in named.items()}


DENOISERS = {
  "eps": jd.eps_denoiser,
  "x_0": jd.x_0_denoiser,
  "velocity": jd.velocity_denoiser,
  "score": jd.score_denoiser,
}


def denoiser(process, mixture, parameterisation="eps"):
  network = networks(process, mixture)[parameterisation]
  return DENOISERS[parameterisation](process, network)


def draw(mixture, process, t, n, seed=0):
  """n exact draws of x_t, `[n, D]`, stratified over components."""
  rng = np.random.default_rng(seed)
  alpha, sigma = (float(a) for a in coefficients(process, t))
  counts = np.round(mixture.weights * n).astype(int)
  counts[-1] = n - counts[:-1].sum()
  which = np.repeat(np.arange(len(counts)), counts)
  std = np.sqrt(alpha**2 * mixture.stds**2 + sigma**2)[which, None]
  noise = rng.standard_normal((n, mixture.means.shape[1]))
  return jnp.asarray(alpha * mixture.means[which] + std * noise, jnp.float32)


def quantiles(mixture, process, t, n):
  """Points of x_t at cumulative probability (i + 1/2) / n, 1-D, `[n, 1]`."""
  levels = (np.arange(n) + 0.5) / n
  alpha, sigma = (float(a) for a in coefficients(process, t))
  reach = 3.0 * alpha + 8 * np.sqrt(alpha**2 + sigma**2)
  points = np.linspace(-reach, reach, 200_001)
  return np.interp(
    levels, np.asarray(_cdf64(mixture, alpha, sigma, points)), points
  )[:, None]


def cdf(mixture, process, t, x):
  """P(x_t <= x) of 1-D data, float64, x `[n]`."""
  alpha, sigma = (float(a) for a in coefficients(process, t))
  return _cdf64(mixture, alpha, sigma, np.asarray(x, np.float64))


def _cdf64(mixture, alpha, sigma, x):
  from scipy.special import ndtr

  std = np.sqrt(alpha**2 * mixture.stds**2 + sigma**2)
  z = (x[:, None] - alpha * mixture.means[:, 0]) / std
  return (mixture.weights * ndtr(z)).sum(-1)


def moments(mixture, process, t):
  """Mean `[D]` and covariance `[D, D]` of x_t."""
  alpha, sigma = (float(a) for a in coefficients(process, t))
  mean = mixture.weights @ mixture.means
  centred = mixture.means - mean
  spread = (mixture.weights[:, None] * centred).T @ centred
  within = (mixture.weights * mixture.stds**2).sum() * np.eye(len(mean))
  return alpha * mean, alpha**2 * (spread + within) + sigma**2 * np.eye(
    len(mean)
  )


def gaussian_flow(mixture, process, t, s, x):
  """The probability flow of a single Gaussian from t to s, exactly."""
  (alpha_t, sigma_t), (alpha_s, sigma_s) = (
    [np.float64(a) for a in coefficients(process, time)] for time in (t, s)
  )
  mean, std = mixture.means[0], mixture.stds[0]
  scale = np.sqrt(
    (alpha_s**2 * std**2 + sigma_s**2) / (alpha_t**2 * std**2 + sigma_t**2)
  )
  return alpha_s * mean + scale * (np.asarray(x, np.float64) - alpha_t * mean)


def normal_log_pdf(x, mean, std):
  return norm.logpdf(x, mean, std)
