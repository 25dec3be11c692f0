"""Solvers, losses and likelihood against score_sde_pytorch's, from arrays.

Stored by tests/data/make_score_sde_sampling.py: see tests/data/PROVENANCE.md.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd
from jaxgen.diffusion import ode, samplers, score_losses, sde_solvers

N, INDEX = 100, 60
T = (INDEX + 0.5) / (N - 1)
SDES = {"vp": jd.VPSDE(), "subvp": jd.SubVPSDE(), "ve": jd.VESDE()}
LEVELS = {
  "vp": jd.DiscreteProcess.from_betas(jd.linear_betas(N, 0.1 / N, 20 / N)),
  "ve": jd.DiscreteProcess.from_sigmas(
    jd.geometric_sigmas(N, 50.0, 0.01)[::-1]
  ),
}


@pytest.fixture(scope="module")
def stored():
  path = Path(__file__).parents[1] / "data" / "score_sde_sampling.npz"
  with np.load(path) as arrays:
    return {name: jnp.asarray(value) for name, value in arrays.items()}


def formula(name, x, t):
  std = SDES[name].sigma(t)
  t, std = (jnp.reshape(a, (-1, 1, 1, 1)) for a in (t, std))
  return (jnp.cos(x) * t - 0.5 * x) / (1 + std**2)


def at_all_times(name):
  return jd.score_denoiser(SDES[name], lambda x, t: formula(name, x, t))


def at_the_level(name):
  """The score at time T, whatever the level is called."""
  network = lambda x, t: formula(name, x, jnp.full(len(x), T))
  return jd.score_denoiser(LEVELS[name], network)


def use(monkeypatch, z):
  """Hands out stored noise in the place of random numbers."""
  for module in (sde_solvers, samplers, ode):
    monkeypatch.setattr(module, "normal_like", lambda key, x: z)


@pytest.mark.parametrize("name", SDES)
def test_euler_maruyama(stored, monkeypatch, name):
  use(monkeypatch, stored["z"])
  method = jd.euler_maruyama(SDES[name], at_all_times(name))
  # In float32 as there.
  t, s = jnp.asarray(T), jnp.asarray(T) - jnp.float32(1 / N)
  out, _ = method.step(jax.random.key(0), stored["x"], t, s, ())
  expected = stored[f"{name}/euler_maruyama"]
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["reverse", "flow"])
def test_sub_vp_is_discretised_by_euler_maruyama_there(
  stored, monkeypatch, kind
):
  use(monkeypatch, stored["z"])
  make = jd.euler_maruyama if kind == "reverse" else jd.euler_ode
  method = make(SDES["subvp"], at_all_times("subvp"))
  t, s = jnp.asarray(T), jnp.asarray(T) - jnp.float32(1 / N)
  out, _ = method.step(jax.random.key(0), stored["x"], t, s, ())
  expected = stored[f"subvp/{kind}"]
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["reverse", "flow", "ancestral"])
@pytest.mark.parametrize("name", LEVELS)
def test_predictors(stored, monkeypatch, name, kind):
  """Their index 60, counted from 0, is our level 61."""
  use(monkeypatch, stored["z"])
  process, denoiser = LEVELS[name], at_the_level(name)
  if kind == "ancestral":
    # VP's has DDPM's larger variance there, VE's the posterior's.
    variance = jd.FIXED_LARGE if name == "vp" else jd.FIXED_SMALL
    method = jd.ancestral(process, denoiser, variance)
  else:
    method = jd.reverse_diffusion(process, denoiser, kind == "flow")
  t, s = jnp.asarray(INDEX + 1), jnp.asarray(INDEX)
  out, _ = method.step(jax.random.key(0), stored["x"], t, s, ())
  expected = stored[f"{name}/{kind}"]
  np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["langevin", "annealed"])
@pytest.mark.parametrize("name", LEVELS)
def test_correctors(stored, monkeypatch, name, kind):
  use(monkeypatch, stored["z"])
  process, denoiser = LEVELS[name], at_the_level(name)
  snr = 0.16
  if kind == "annealed":
    # There sigma is that of the continuous SDE, here that of the level.
    level = float(process.sigma(jnp.asarray(INDEX + 1)))
    snr *= float(SDES[name].sigma(T)) / level
  make = jd.langevin if kind == "langevin" else jd.annealed_langevin
  corrector = make(process, denoiser, snr)
  out = corrector(jax.random.key(0), stored["x"], jnp.asarray(INDEX + 1))
  expected = stored[f"{name}/{kind}"]
  np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-5)


def draws_of(monkeypatch, stored, t):
  def draw(process, key, x_0, t_given, eps):
    alpha, sigma = sde_solvers.marginal(process, t, x_0)
    return t, alpha * x_0 + sigma * stored["z"], stored["z"]

  monkeypatch.setattr(score_losses, "_draw", draw)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("name", SDES)
def test_losses(stored, monkeypatch, name, mean, weighted):
  t = stored["u"] * (1 - 1e-5) + 1e-5
  draws_of(monkeypatch, stored, t)
  loss = jd.score_matching_loss(
    SDES[name],
    at_all_times(name),
    jax.random.key(0),
    stored["x"],
    likelihood_weighting=weighted,
    reduction="mean" if mean else "sum",
  )
  expected = stored[f"{name}/loss weighted={weighted} mean={mean}"]
  np.testing.assert_allclose(loss, expected, rtol=2e-4)


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_losses_at_levels(stored, monkeypatch, name):
  """SMLD's labels count from the largest level, DDPM's from the least."""
  labels = stored["labels"]
  t = N - labels if name == "ve" else labels + 1
  draws_of(monkeypatch, stored, t)
  network = lambda x, t: jnp.cos(x) - 0.5 * x
  if name == "ve":
    denoiser = jd.score_denoiser(LEVELS[name], network)
    loss = jd.ncsn_loss(LEVELS[name], denoiser, None, stored["x"])
    expected = stored["ve/smld"]
  else:
    denoiser = jd.eps_denoiser(LEVELS[name], network)
    loss = jd.score_matching_loss(LEVELS[name], denoiser, None, stored["x"])
    expected = stored["vp/ddpm"]
  np.testing.assert_allclose(loss, expected, rtol=2e-4)


@pytest.mark.parametrize("name", SDES)
def test_likelihoods(stored, monkeypatch, name):
  """Bits per dimension with their probe, RK45 by scipy there.

  Their offset is that of [-1, 1]; both solvers keep the paper's tolerances.
  """
  probe = 2 * stored["signs"] - 1
  use(monkeypatch, probe)
  found = jax.jit(
    lambda x: jd.ode_log_likelihood(
      SDES[name],
      at_all_times(name),
      x,
      jax.random.key(0),
      tolerances=jd.Tolerances(),
    )
  )(stored["x"])
  bits = -found.log_likelihood / (32 * np.log(2)) + 7
  np.testing.assert_allclose(bits, stored[f"{name}/bits"], rtol=2e-4)
  latent = stored[f"{name}/latent"]
  scale = np.abs(latent).max()
  np.testing.assert_allclose(found.latent, latent, atol=1e-4 * scale)
  ratio = float(found.num_evaluations / stored[f"{name}/evaluations"])
  assert 0.5 < ratio < 2
