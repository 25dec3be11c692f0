"""EDM's experiments: formulas against Table 1, scripts at tiny size."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd
from experiments import models, results
from experiments.edm import model, table2
from experiments.edm.config import CONFIGS
from experiments.evaluate import Scoring
from experiments.likelihood import bits_per_dim
from experiments.sampling import make_times

SCORING = Scoring(reference="mnist5k:test[:40]")


def test_the_paper_s_network_and_schedule():
  """About 56M parameters; Adam 1e-3, 200M images, half-life 0.5M."""
  config = CONFIGS["cifar10"]
  unet = model.make_network(config)
  shapes = jax.eval_shape(
    lambda key: model.init_params(config, unet, key), jax.random.key(0)
  )
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert round(count / 1e6) == 56
  assert config.steps * config.batch_size == 200_000_000
  decay = model.ema_decay(config)
  late = float(decay(jnp.asarray(300_000)))
  assert late ** (500_000 / 512) == pytest.approx(0.5, rel=1e-3)
  # 5% of 20 batches is one: its half-life is one batch.
  assert float(decay(jnp.asarray(20))) == pytest.approx(0.5)


def test_vp_time_inverts_score_sdes_marginal():
  """sigma / alpha of `VPSDE` at t, and back."""
  t = jnp.array([1e-3, 0.1, 0.5, 1.0])
  process = jd.VPSDE()
  sigma = process.sigma(t) / process.alpha(t)
  np.testing.assert_allclose(model.vp_sigma(t), sigma, rtol=1e-4)
  np.testing.assert_allclose(model.vp_time(sigma), t, rtol=1e-4)


@pytest.mark.parametrize("formulation", ["vp", "ve"])
def test_the_original_columns_of_table_1(formulation):
  """D and its arguments by the formulas as they are printed."""
  config = dataclasses.replace(
    CONFIGS["cifar10"],
    formulation=formulation,
    preconditioning="original",
    loss="original",
  )
  seen = {}

  def network(x, c_noise):
    seen.update(x=x, c_noise=c_noise)
    return jnp.cos(3 * x)

  sigma = np.array([0.03, 0.7, 20.0], np.float32)
  x = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
  denoiser = model.make_denoiser(config, jd.KarrasProcess(), network)
  found = denoiser(x, jnp.asarray(sigma)).x_0
  s = sigma[:, None, None, None]
  if formulation == "vp":
    c_in, c_out = 1 / np.sqrt(s**2 + 1), -s
    bd, bmin = 19.9, 0.1
    t = (np.sqrt(bmin**2 + 2 * bd * np.log(1 + sigma**2)) - bmin) / bd
    c_noise = 999 * t
  else:
    c_in, c_out = 1.0, s
    c_noise = np.log(sigma / 2)
  np.testing.assert_allclose(seen["x"], c_in * x, rtol=1e-5)
  np.testing.assert_allclose(seen["c_noise"], c_noise, rtol=1e-3)
  wanted = x + c_out * np.cos(3 * c_in * np.asarray(x))
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row", ["C-vp", "C-ve", "D-vp", "E-vp"])
def test_losses_of_a_known_network(row):
  """F = 0 under EDM, or eps = 0: the loss is the weighted |D - x_0|^2.

  Original: D = x, |sigma z|^2 / sigma^2 = 1. D: c_skip x, so |sigma c_skip z -
  (1 - c_skip) x_0|^2 / sigma^2. E: the target has unit variance for data of
  standard deviation sigma_data.
  """
  config = table2.variant(CONFIGS["cifar10"], row)
  x_0 = 0.5 * jax.random.normal(jax.random.key(0), (4096, 2, 2, 1))

  class Zero:
    def apply(self, variables, x, *rest, **options):
      return jnp.zeros_like(x)

  loss = model.make_loss(config, jd.KarrasProcess(), Zero())
  found = float(loss({}, jax.random.key(1), {"image": x_0}))
  wanted = 1.0
  if row.startswith("D"):
    # E over t of c_skip^2 + (1 - c_skip)^2 sigma_data^2 / sigma^2.
    t = np.linspace(1e-5, 1, 100_001)
    s2 = np.expm1(9.95 * t**2 + 0.1 * t)
    skip = 0.25 / (s2 + 0.25)
    wanted = (skip**2 + (1 - skip) ** 2 * 0.25 / s2).mean()
  assert found == pytest.approx(wanted, rel=0.05)


def test_sigmas_of_the_original_losses():
  """VE's ln sigma is uniform on [ln .02, ln 100]; VP's t on [1e-5, 1]."""
  config = dataclasses.replace(CONFIGS["cifar10"], formulation="ve")
  draws = model.draw_sigmas(config, jax.random.key(0), 20_000)
  assert float(jnp.log(draws).mean()) == pytest.approx(
    math.log(0.02 * 100) / 2, abs=0.05
  )
  assert 0.02 <= draws.min() <= draws.max() <= 100.001
  config = dataclasses.replace(config, formulation="vp")
  t = model.vp_time(model.draw_sigmas(config, jax.random.key(0), 20_000))
  assert float(t.mean()) == pytest.approx(0.5, abs=0.01)
  assert float(t.std()) == pytest.approx(12**-0.5, abs=0.01)


def test_table_2(tmp_path, capsys):
  config = dataclasses.replace(
    CONFIGS["mnist5k"], workdir=str(tmp_path), smoke=True
  )
  table2.main(table2.Table(config, SCORING, 12, 12, rows=("E-ve",)))
  assert "| E-ve | 1.86 | 1.99 |" in capsys.readouterr().out
  assert (tmp_path / "table2.png").exists()
  (path,) = tmp_path.glob("*.json")
  result = results.Result(**json.loads(path.read_text()))
  assert math.isfinite(result.values["FID"])
  assert "mnist5k-cnn" in result.ours["FID"]
  loaded = models.load(str(tmp_path / "E-ve-seed0"))
  times = make_times(loaded, table2.HEUN)
  np.testing.assert_allclose(times[:2], [80, 57.5859847], rtol=1e-5)
  assert 2 * (len(times) - 1) - 1 == 35  # calls of the network
  assert (times[-2], times[-1]) == (np.float32(0.002), 0)
  original = model.as_model(table2.variant(loaded.config, "C-ve"), None, None)
  assert make_times(original, table2.HEUN)[-2] == np.float32(0.02)
  with pytest.raises(ValueError, match="needs a discrete process, got Karras"):
    bits_per_dim(loaded, "test", 8)


def test_what_is_not_built_is_refused():
  table = table2.Table(CONFIGS["mnist5k"], rows=("F-vp",))
  with pytest.raises(ValueError, match="got F-vp"):
    table2.main(table)
  with pytest.raises(ValueError, match="needs preconditioning='edm'"):
    dataclasses.replace(CONFIGS["cifar10"], preconditioning="original")
