"""Schedules against numbers printed or derived from the papers in float64."""

import numpy as np
import pytest

import jaxgen.diffusion as jd


def alpha_bar(betas):
  return np.cumprod(1 - betas)


def test_linear_is_ddpms():
  betas = jd.linear_betas()
  assert betas.dtype == np.float64
  np.testing.assert_allclose(
    alpha_bar(betas)[[0, 1, 10, 100, 250, 500, 750, 999]],
    [
      0.9999,
      0.9997800921,
      0.9978065725,
      0.8951415909,
      0.5214230306,
      0.07779665837,
      0.003300158362,
      4.035829765e-05,
    ],
    rtol=1e-9,
  )


def test_linear_scaled_to_4000_steps():
  betas = jd.linear_betas(4000, 2.5e-5, 0.005)
  np.testing.assert_allclose(
    alpha_bar(betas)[[0, 1000, 2000, 3999]],
    [0.999975, 0.5231160605, 0.07874647522, 4.246652276e-05],
    rtol=1e-9,
  )


@pytest.mark.parametrize(
  ("T", "index", "values"),
  [
    (
      1000,
      [0, 1, 500, 998, 999],
      [4.128422482e-05, 4.614175274e-05, 0.003155691442, 0.7499993929, 0.999],
    ),
    (
      4000,
      [0, 1, 2000, 3998],
      [9.865818814e-06, 1.016941488e-05, 7.889355535e-04, 0.7499999621],
    ),
  ],
)
def test_cosine_is_improved_ddpms(T, index, values):
  betas = jd.cosine_betas(T)
  np.testing.assert_allclose(betas[index], values, rtol=1e-8)
  assert (betas == 0.999).sum() == 1


def test_scaled_linear_is_stable_diffusions():
  betas = jd.scaled_linear_betas()
  assert betas[1] == pytest.approx(8.546986554e-04, rel=1e-9)
  abar = alpha_bar(betas)
  np.testing.assert_allclose(
    abar[[0, 1, 20, 500, 981, 999]],
    [
      0.99915,
      0.9982960278,
      0.9813143622,
      0.2763326838,
      0.005775500139,
      0.004660098513,
    ],
    rtol=1e-9,
  )
  sigmas = np.sqrt((1 - abar) / abar)
  np.testing.assert_allclose(
    sigmas[[0, 999]], [0.02916715815, 14.61464123], rtol=1e-8
  )


def test_scaled_linear_is_latent_diffusions():
  abar = alpha_bar(jd.scaled_linear_betas(1000, 0.0015, 0.0195))
  np.testing.assert_allclose(
    abar[[0, 500, 999]], [0.9985, 0.1149220009, 1.423039752e-04], rtol=1e-8
  )


def test_geometric_sigmas_descend_with_one_ratio():
  sigmas = jd.geometric_sigmas(232, 50.0, 0.01)
  assert sigmas[0] == pytest.approx(50.0)
  assert sigmas[-1] == pytest.approx(0.01)
  # NCSNv2's CIFAR-10 levels: ratio 50 / 0.01 over 231 gaps.
  np.testing.assert_allclose(sigmas[:-1] / sigmas[1:], 1.03755913, rtol=1e-7)


@pytest.mark.parametrize(
  "make",
  [
    lambda: jd.linear_betas(10, 0.0, 0.02),
    lambda: jd.linear_betas(10, 1e-4, 1.0),
    lambda: jd.linear_betas(10, -0.1, 0.5),
    lambda: jd.cosine_betas(10, max_beta=1.0),
    lambda: jd.DiscreteProcess.from_betas([0.1, float("nan")]),
    lambda: jd.DiscreteProcess.from_betas([]),
  ],
)
def test_betas_outside_the_unit_interval_are_refused(make):
  with pytest.raises(ValueError, match="beta"):
    make()


@pytest.mark.parametrize("sigmas", ([], [2.0, 1.0], [0.0, 1.0], [1.0, 1.0]))
def test_sigmas_must_ascend(sigmas):
  with pytest.raises(ValueError, match="sigmas must"):
    jd.DiscreteProcess.from_sigmas(sigmas)


def test_geometric_sigmas_refuse_a_bad_range():
  with pytest.raises(ValueError, match="sigma_max > sigma_min > 0"):
    jd.geometric_sigmas(10, 0.01, 50.0)
