"""Preconditioning, loss and samplers of NVlabs/edm, from stored arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd
from jaxgen.data import augmentation
from jaxgen.diffusion import edm

STORED = dict(np.load(Path(__file__).parents[1] / "data" / "edm.npz"))
PROCESS = jd.KarrasProcess()


def nhwc(x):
  return jnp.moveaxis(jnp.asarray(x), -3, -1)


def network(x, noise):
  return 0.5 * jnp.tanh(x) + 0.1 * noise.reshape(-1, 1, 1, 1) * x


def close(got, want):
  assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()


def test_preconditioning():
  denoiser = jd.edm_denoiser(PROCESS, network)
  sigma = jnp.array([0.01, 0.7, 40.0])
  close(denoiser(nhwc(STORED["x"]), sigma).x_0, nhwc(STORED["denoised"]))


def test_loss(monkeypatch):
  sigma = jnp.exp(1.2 * STORED["normal"].reshape(-1) - 1.2)
  noise = nhwc(STORED["noise"][0])
  monkeypatch.setattr(edm, "normal_like", lambda key, x: noise)
  got = jd.edm_loss(network, jax.random.key(0), nhwc(STORED["x"]), sigma)
  close(got, STORED["loss"].mean())


def test_loss_draws_the_papers_levels():
  """ln sigma ~ N(-1.2, 1.2^2): the loss of D = 0 is E[(1 + ...)]."""
  x = jnp.zeros((50_000, 1))
  zero = lambda x, noise: jnp.zeros_like(x)
  # D = c_skip x, so that w D^2 = sigma_data^2 / (sigma^2 + sigma_data^2) z^2.
  got = jd.edm_loss(zero, jax.random.key(0), x)
  sigma = np.exp(1.2 * np.random.default_rng(0).standard_normal(10**6) - 1.2)
  want = (0.25 / (sigma**2 + 0.25)).mean()
  assert got == pytest.approx(want, rel=0.03)


@pytest.mark.parametrize("name", ["plain", "churn"])
def test_samplers(name, monkeypatch):
  """18 steps of Algorithm 1 and 2; the original computes in float64."""
  churn = jd.Churn(4 / 18, 0.05, 50.0, 1.003) if name == "churn" else None
  sampler = jd.edm_heun(PROCESS, jd.edm_denoiser(PROCESS, network), churn)
  times = jd.karras_times(18)
  step = jax.jit(
    lambda noise, x, t, s: _step(monkeypatch, sampler, noise, x, t, s)
  )
  x = 80 * nhwc(STORED["x"])
  for i in range(18):
    x = step(nhwc(STORED["noise"][i]), x, times[i], times[i + 1])
  close(x, nhwc(STORED[name]))


def _step(monkeypatch, sampler, noise, x, t, s):
  monkeypatch.setattr(edm, "normal_like", lambda key, x: noise)
  return sampler.step(None, x, t, s, ())[0]


def test_times_are_the_papers():
  np.testing.assert_allclose(
    jd.karras_times(5),
    [80, 17.5278320, 2.51521898, 0.169752756, 0.002, 0],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    jd.karras_times(18)[:4], [80, 57.5859847, 40.7855738, 28.3745846], rtol=1e-6
  )
  assert len(jd.karras_times(18)) == 19
  # Stable Diffusion's levels (k-diffusion).
  np.testing.assert_allclose(
    jd.karras_times(10, 0.0292, 14.6146)[:5],
    [14.6146, 9.1034, 5.4790, 3.1692, 1.7499],
    rtol=1e-4,
  )


def test_bad_input_is_one_sentence():
  with pytest.raises(ValueError, match="n >= 2"):
    jd.karras_times(1)
  with pytest.raises(ValueError, match="needs a KarrasProcess, got VPSDE"):
    jd.edm_heun(jd.VPSDE(), None, jd.Churn(0.1))
  with pytest.raises(ValueError, match="sigma_max must be positive"):
    jd.KarrasProcess(0.0)


def test_augmentation():
  """The original's images and labels, under the changes that it drew."""
  stored = dict(np.load(Path(__file__).parents[1] / "data/edm_augment.npz"))
  fields = augmentation.Changes._fields
  changes = augmentation.Changes(*(jnp.asarray(stored[n]) for n in fields))
  close(augmentation.labels_of(changes), stored["labels"])
  images = jnp.asarray(stored["images"])
  close(augmentation.apply_changes(images, changes), stored["found"])
