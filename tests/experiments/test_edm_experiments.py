"""EDM's experiments: formulas against Table 1, scripts at tiny size."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxgen.diffusion as jd
from experiments import models, results
from experiments.edm import model, table2
from experiments.edm.config import CONFIGS
from experiments.evaluate import Scoring
from experiments.likelihood import bits_per_dim
from experiments.sampling import make_draw, make_times
from experiments.score_sde import config as score_sde_config
from experiments.score_sde import model as score_sde_model

pytestmark = pytest.mark.usefixtures("one_device")

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


@pytest.mark.slow
def test_table_2(tmp_path, capsys, monkeypatch):
  """A of the best network for one Gaussian, F conditional on digits."""
  load = models.load
  sde = score_sde_config.CONFIGS["mnist5k_ve"]
  sde = dataclasses.replace(sde, network="ve/cifar10_ncsnpp_continuous")
  a = score_sde_model.as_model(sde, exact_network("ve"), {})
  monkeypatch.setattr(
    models, "load", lambda weights: a if weights == "A" else load(weights)
  )
  config = dataclasses.replace(
    CONFIGS["mnist5k"], workdir=str(tmp_path), smoke=True, num_classes=10
  )
  table = table2.Table(
    config, SCORING, 12, 12, rows=("A-ve", "F-ve"), weights="A"
  )
  table2.main(table)
  shown = capsys.readouterr().out
  assert "| A-ve | 3.11 | 3.77 |" in shown
  assert "| F-ve | 1.79 | 1.98 |" in shown
  assert (tmp_path / "table2.png").exists()
  found = {}
  for path in tmp_path.glob("*.json"):
    result = results.Result(**json.loads(path.read_text()))
    found[result.row] = result
  assert set(found["A-ve"].values) == {"FID"}
  assert set(found["F-ve"].values) == {"FID, conditional"}
  assert math.isfinite(found["F-ve"].values["FID, conditional"])
  assert "mnist5k-cnn" in found["F-ve"].ours["FID, conditional"]

  loaded = models.load(str(tmp_path / "F-ve-seed0"))
  assert (loaded.num_classes, loaded.config.augment) == (10, 0.12)
  times = make_times(loaded, table2.HEUN)
  np.testing.assert_allclose(times[:2], [80, 57.5859847], rtol=1e-5)
  assert 2 * (len(times) - 1) - 1 == 35  # calls of the network
  assert (times[-2], times[-1]) == (np.float32(0.002), 0)
  original = model.as_model(table2.variant(loaded.config, "C-ve"), None, None)
  assert make_times(original, table2.HEUN)[-2] == np.float32(0.02)
  with pytest.raises(ValueError, match="needs a discrete process, got Karras"):
    bits_per_dim(loaded, "test", 8)
  with pytest.raises(ValueError, match="row A-vp is of another SDE"):
    table2.published("A-vp", table, tmp_path)


class Recorder:
  """A network that is 0 and keeps what it was told."""

  def apply(self, variables, x, *rest, **options):
    self.told = options
    return jnp.zeros_like(x)


@pytest.mark.slow
def test_config_f_is_told_its_classes_and_changes():
  """In training as drawn; when sampling no change, which is zeros."""
  config = dataclasses.replace(CONFIGS["cifar10_cond"], augment=0.9)
  assert model.make_network(config).augment_dim == 9
  net, key = Recorder(), jax.random.key(0)
  batch = {"image": jnp.ones((64, 4, 4, 3)), "label": jnp.arange(64) % 10}
  model.make_loss(config, jd.KarrasProcess(), net)({}, key, batch)
  np.testing.assert_array_equal(net.told["labels"], batch["label"])
  found = net.told["augment"]
  assert found.shape == (64, 9)
  assert ((found != 0).mean(0) > 0.3).all()
  sampled = model.as_model(config, net, {})
  assert sampled.num_classes == 10
  labels = jnp.array([3])
  sampled.denoiser({}, labels)(jnp.ones((1, 4, 4, 3)), jnp.ones(1))
  assert net.told["augment"] is None
  np.testing.assert_array_equal(net.told["labels"], labels)


def test_variants_of_the_paper_s_configurations():
  """F has no flips but those the network is told of, p = 0.12."""
  f = table2.variant(CONFIGS["cifar10"], "F-ve")
  assert (f.augment, f.flip, f.loss, f.preconditioning) == (
    0.12,
    False,
    "edm",
    "edm",
  )
  e = table2.variant(CONFIGS["cifar10_cond"], "E-ve")
  assert (e.augment, e.flip, e.num_classes) == (0.0, True, 10)


def exact_network(sde, mean=0.2, std=0.6):
  """The published convention of the best network for N(mean, std^2)."""

  class Net:
    def apply(self, variables, x, label, deterministic, rngs):
      s = label.reshape(-1, 1, 1, 1)
      if sde == "ve":  # the score of images in [0, 1], told their sigma
        variance = (std / 2) ** 2 + s**2
        return ((mean + 1) / 2 - x) / variance
      process = jd.VPSDE()
      alpha, sigma = process.alpha(s / 999), process.sigma(s / 999)
      return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

  return Net()


@pytest.mark.parametrize("row", ["A-vp", "A-ve"])
def test_published_networks_at_edm_s_levels(row):
  """D(y; sigma) is the posterior mean; the samples' moments are the data's."""
  config = score_sde_config.CONFIGS[table2.PUBLISHED[row]]
  net = exact_network(config.sde)
  model_a = model.over_sigma(score_sde_model.as_model(config, net, {}))
  sigma = np.array([0.05, 0.9, 70.0], np.float32)
  y = jax.random.normal(jax.random.key(0), (3, 2, 2, 3)) * 2
  found = model_a.denoiser({}, None)(y, jnp.asarray(sigma)).x_0
  s2 = sigma[:, None, None, None] ** 2
  wanted = (0.36 * np.asarray(y) + 0.2 * s2) / (0.36 + s2)
  np.testing.assert_allclose(found, wanted, atol=2e-3)

  times = make_times(model_a, table2.HEUN)
  least = 0.002 if config.sde == "vp" else 0.02
  assert (len(times), times[0]) == (19, 80)
  np.testing.assert_allclose(times[-2:], [least, 0], rtol=1e-6)
  keys = jax.random.split(jax.random.key(1), 8)
  # At 18 steps the exact flow is missed by 5%.
  finer = dataclasses.replace(table2.HEUN, steps=72)
  x = make_draw(model_a, finer)({}, keys)
  assert x.shape == (8, 32, 32, 3)
  assert float(x.mean()) == pytest.approx(0.2, abs=0.02)
  assert float(x.std()) == pytest.approx(0.6, rel=0.02)


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_karras_levels_on_score_sde_s_times(name):
  """Heun's method there is of second order, by a Gaussian's exact flow."""
  sde = jd.VPSDE() if name == "vp" else jd.VESDE(0.02, 100.0)
  denoiser = oracles.denoiser(sde, oracles.GAUSSIAN)
  unit = jnp.linspace(-1, 1, 9)[:, None]
  errors = []
  for n in (18, 36):
    levels = jnp.asarray(jd.karras_times(n, 0.02)[:-1])
    times = model.time_at(sde, levels)
    ratio = sde.sigma(times) / sde.alpha(times)
    np.testing.assert_allclose(ratio, levels, rtol=1e-3)
    x = unit * sde.sigma(times[0])
    found = jd.sample(jax.random.key(0), x, times, jd.edm_heun(sde, denoiser))
    exact = oracles.gaussian_flow(oracles.GAUSSIAN, sde, times[0], times[-1], x)
    errors.append(float(np.abs(found - exact).max()))
  assert errors[0] < 0.025
  assert 3 < errors[0] / errors[1] < 6


def test_over_sigma_takes_the_same_steps():
  """x_t of the VP process is alpha_t y."""
  sde = jd.VPSDE()
  config = score_sde_config.CONFIGS["vp/cifar10_ddpmpp_continuous"]
  inner = score_sde_model.as_model(config, exact_network("vp"), {})
  over = model.over_sigma(inner)
  levels = jnp.asarray(jd.karras_times(6)[:-1])
  times = model.time_at(sde, levels)
  y = 80 * jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  key = jax.random.key(1)
  y_0 = jd.sample(
    key, y, levels, jd.edm_heun(over.process, over.denoiser({}, None))
  )
  x_0 = jd.sample(
    key,
    sde.alpha(times[0]) * y,
    times,
    jd.edm_heun(sde, inner.denoiser({}, None)),
  )
  np.testing.assert_allclose(x_0, sde.alpha(times[-1]) * y_0, atol=2e-3)


def test_what_is_refused():
  table = table2.Table(CONFIGS["mnist5k"], rows=("G-vp",))
  with pytest.raises(ValueError, match="got G-vp"):
    table2.main(table)
  table = table2.Table(CONFIGS["mnist5k"], rows=("A-vp",))
  with pytest.raises(ValueError, match="row A-vp needs --weights"):
    table2.main(table)
  with pytest.raises(ValueError, match="needs preconditioning='edm'"):
    dataclasses.replace(CONFIGS["cifar10"], preconditioning="original")
  with pytest.raises(ValueError, match="augment must lie in"):
    dataclasses.replace(CONFIGS["cifar10"], augment=12.0)
  with pytest.raises(ValueError, match="a VPSDE or a VESDE, got SubVPSDE"):
    model.time_at(jd.SubVPSDE(), jnp.ones(()))
