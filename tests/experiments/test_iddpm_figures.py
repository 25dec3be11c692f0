"""Figures of improved DDPM and of DDIM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd
from experiments.ddim import figures as ddim_figures
from experiments.iddpm import figures
from experiments.iddpm.config import CONFIGS
from experiments.models import Model


def test_schedules_and_variances():
  """Eq. 17 at its half, and beta-tilde_t by DDPM's Eq. 7."""
  abar = figures.alpha_bars(jd.cosine_betas(1000))
  f = lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
  np.testing.assert_allclose(abar[499], f(0.5) / f(0), rtol=1e-9)
  betas = jd.linear_betas(1000)
  ratios = figures.variance_ratios(betas)
  process = jd.DiscreteProcess.from_betas(betas)
  for t in (2, 10, 1000):
    zero = jnp.zeros((1, 1))
    _, variance = jd.posterior(process, zero, zero, t, t - 1)
    wanted = float(variance.reshape(())) / betas[t - 1]
    assert ratios[t - 2] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_consistency_and_arcs_of_a_known_model():
  """x_0 ~ N(0, 0.25): the flow maps x_T to 0.5 x_T, whatever S."""
  process = jd.DiscreteProcess.from_betas(jd.linear_betas(1000))
  config = dataclasses.replace(CONFIGS["mnist5k"], T=1000, image_size=8)

  def denoiser(params, labels):
    del labels

    def exact(x, t):
      alpha, sigma = jd.marginal(process, t, x)
      gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
      return jd.from_x_0(process, x, t, params * gain * x)

    return exact

  model = Model(config, process, jnp.float32(1), denoiser, jd.FIXED_SMALL)
  key = jax.random.key(0)
  x_T = jd.prior(process, key, (4, 8, 8, 1))
  found = ddim_figures.consistency(model, key, 4, (100, 1000))
  assert found.shape == (4, 2, 8, 8, 1)
  np.testing.assert_allclose(found[:, 1], 0.5 * x_T, atol=0.01)
  np.testing.assert_allclose(found[:, 0], 0.5 * x_T, atol=0.1)
  arcs = ddim_figures.interpolation(model, key, 2, 3, 1000)
  a, b = (jd.prior(process, k, (2, 8, 8, 1)) for k in jax.random.split(key))
  np.testing.assert_allclose(arcs[:, 0], 0.5 * a, atol=0.01)
  np.testing.assert_allclose(arcs[:, 2], 0.5 * b, atol=0.01)
  middle = 0.5 * jd.slerp(a, b, 0.5)
  np.testing.assert_allclose(arcs[:, 1], middle, atol=0.01)
