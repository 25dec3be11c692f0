"""The experiments of score SDE and NCSN, at tiny size."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd
from experiments import models, results
from experiments.ncsn import config as ncsn_config
from experiments.ncsn import model as ncsn_model
from experiments.ncsn import table1 as ncsn_table1
from experiments.ncsn.train import train as train_ncsn
from experiments.score_sde import figures, model, sample, table1, table2, table3
from experiments.score_sde.conditional import with_classifier
from experiments.score_sde.config import CONFIGS, Config, smoke
from experiments.score_sde.sampling import (
  ScoreSampling,
  evaluations,
  make_draw,
)
from experiments.score_sde.train import train
from jaxgen.nn.ncsnpp import NETWORKS
from jaxgen.nn.score_classifier import WideResNet

pytestmark = pytest.mark.usefixtures("one_device")

RELEASED = json.loads(
  (Path(__file__).parents[1] / "data/score_sde_configs.json").read_text()
)


@pytest.mark.parametrize("name", RELEASED)
def test_configurations_are_the_released_ones(name):
  ours = dataclasses.asdict(CONFIGS[name])
  if ours["dropout"] is None:
    ours["dropout"] = NETWORKS[name].dropout
  assert {field: ours[field] for field in RELEASED[name]} == RELEASED[name]
  assert model.make_net(CONFIGS[name]) == NETWORKS[name]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A smoke run of VE at all times."""
  directory = tmp_path_factory.mktemp("ve")
  config = CONFIGS["mnist5k_ve"]
  return train(dataclasses.replace(config, workdir=str(directory), smoke=True))


def test_every_published_network_has_a_configuration():
  assert set(NETWORKS) <= set(CONFIGS)
  for name in NETWORKS:
    size = CONFIGS[name].image_size
    assert size == {"10": 1024, "25": 256}.get(
      next((s for s in ("10", "25") if f"_{s}" in name), ""), size
    )


def test_ncsns_levels_are_geometric():
  config = ncsn_config.CONFIGS["ncsnv2/cifar10"]
  process = ncsn_model.make_process(config)
  assert process.T == 232
  ratio = float(process.sigma(231) / process.sigma(230))
  assert ratio == pytest.approx(1.03756, abs=1e-5)
  # eps of [0, 1] against the levels of [-1, 1]: the paper's variance ratio.
  ratio = jd.langevin_variance_ratio(config.step_size, 0.01, 5, 1.03755913)
  assert ratio == pytest.approx(1.0555, abs=1e-4)


@pytest.mark.parametrize(
  ("name", "t", "label"),
  [
    ("ve/cifar10_ncsnpp_continuous", 1.0, 50.0),
    ("ve/cifar10_ncsnpp_continuous", 0.5, 50.0**0.5 * 0.1),
    ("vp/cifar10_ddpmpp_continuous", 0.5, 499.5),
    ("vp/cifar10_ddpmpp", 1, 0.0),
    ("vp/cifar10_ddpmpp", 1000, 999.0),
    ("ve/cifar10_ncsnpp", 1000, 0.0),
    ("ve/cifar10_ncsnpp", 1, 999.0),
  ],
)
def test_labels_are_the_releases(name, t, label):
  config = CONFIGS[name]
  found = model.label_of(config, model.make_process(config), jnp.asarray(t))
  assert found == pytest.approx(label, rel=1e-5)


def test_levels_between_those_trained_at():
  """Table 1's P2000: level i of 2000 has the label of i / 2, VP's marginals."""
  config = CONFIGS["vp/cifar10_ddpm"]
  fine, coarse = (model.make_process(config, k) for k in (2, 1))
  assert fine.T == 2000
  assert model.label_of(config, fine, jnp.asarray(1001)) == 500
  sigmas = [p.sigma(jnp.asarray(p.T // 2)) for p in (fine, coarse)]
  assert sigmas[0] == pytest.approx(float(sigmas[1]), rel=1e-3)
  ways = [table1.way("vp", "flow", c, 1000) for c in table1.COLUMNS]
  assert [how.steps for how in ways] == [1000, 2000, 1000, 1000]
  assert [how.corrector_steps for how in ways] == [1, 1, 2, 1]
  assert {how.snr for how in ways} == {0.04}


@pytest.mark.parametrize("name", ["ve/cifar10_ncsnpp", "vp/cifar10_ddpm"])
def test_published_networks_can_be_trained(name):
  """The loss is traced on the network itself, dropout and labels included."""
  config = CONFIGS[name]
  net = model.make_net(config)
  params = jax.eval_shape(
    lambda key: model.init_params(config, net, key), jax.random.key(0)
  )
  loss = model.make_loss(config, model.make_process(config), net)
  batch = {"image": jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)}
  found = jax.eval_shape(loss, params, jax.random.key(0), batch)
  assert found.shape == ()


def test_ve_networks_see_images_in_unit_range():
  """Their exact score of N(m, s^2) on [0, 1] gives ours on [-1, 1]."""
  config = CONFIGS["ve/cifar10_ncsnpp_continuous"]
  mean, std = 0.3, 0.2

  class Net:
    def apply(self, variables, x, sigma, deterministic, rngs):
      variance = std**2 + sigma.reshape(-1, 1, 1, 1) ** 2
      return (mean - x) / variance

  sde = model.make_sde(config)
  denoiser = model.make_denoiser(config, sde, Net(), {})
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  t = jnp.asarray([0.2, 0.7])
  score = jd.score_of(sde, denoiser(x, t), t)
  variance = (2 * std) ** 2 + sde.sigma(t).reshape(-1, 1, 1, 1) ** 2
  np.testing.assert_allclose(score, (2 * mean - 1 - x) / variance, rtol=1e-4)


@pytest.mark.slow
def test_the_ways_to_sample(workdir):
  """Finite images of each, and NFE as it should be."""
  loaded = models.load(str(workdir))
  keys = jax.random.split(jax.random.key(0), 4)
  for how, count in (
    (ScoreSampling("ode", "none", tolerance=1e-2), None),
    (ScoreSampling("euler_maruyama", "annealed", 4), 8),
    (ScoreSampling("ancestral", "langevin", 4, corrector_first=False), 8),
  ):
    x = make_draw(loaded, how)(loaded.params, keys)
    assert x.shape == (4, 28, 28, 1)
    assert jnp.isfinite(x).all()
    if count is not None:
      assert evaluations(loaded, how) == count


def test_a_class_from_a_classifier(workdir):
  """Of a score network that is 0 the guided score is the classifier's."""
  loaded = models.load(str(workdir))
  classifier = WideResNet(1, 1, 3, (0.5,), (0.5,))
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
  init = jax.jit(classifier.init)
  params = init(jax.random.key(1), x, jnp.ones(2))["params"]
  nothing = lambda params, labels: jd.score_denoiser(
    loaded.process, lambda x, t: 0 * x
  )
  bare = loaded._replace(denoiser=nothing)
  guided = with_classifier(bare, classifier, params, label=2)
  t = jnp.asarray([0.3, 0.6])

  @jax.jit
  def score_at(x):
    denoiser = guided.denoiser(guided.params, None)
    return jd.score_of(loaded.process, denoiser(x, t), t)

  def log_prob(x):
    logits = classifier.apply(
      {"params": params}, (x + 1) / 2, loaded.process.sigma(t) / 2
    )
    return jax.nn.log_softmax(logits)[:, 2].sum()

  expected = jax.jit(jax.grad(log_prob))(x)
  np.testing.assert_allclose(score_at(x), expected, rtol=1e-3, atol=1e-5)
  with pytest.raises(ValueError, match=r"label must lie in \[0, 2\], got 3"):
    with_classifier(loaded, classifier, params, label=3)


@pytest.mark.slow
def test_vp_at_ddpms_levels(tmp_path):
  config = CONFIGS["mnist5k_vp_discrete"]
  train(dataclasses.replace(config, workdir=str(tmp_path), smoke=True))
  loaded = models.load(str(tmp_path))
  keys = jax.random.split(jax.random.key(0), 4)
  how = ScoreSampling("reverse", "langevin", 4)
  assert jnp.isfinite(make_draw(loaded, how)(loaded.params, keys)).all()


class Zero:
  """A network that says 0."""

  def apply(self, variables, x, *rest, **options):
    return jnp.zeros_like(x)


@pytest.mark.slow
def test_table_1(tmp_path, monkeypatch):
  """A row of the grid, with the command of this data set."""
  weights = smoke(CONFIGS["mnist5k_vp_discrete"]), Zero(), {}
  monkeypatch.setattr(table1.models, "load", lambda name: weights)
  table1.main(
    "a workdir",
    n=10,
    sampling_batch=16,
    predictors=("none",),
    out=str(tmp_path),
  )
  text = (tmp_path / "table1.md").read_text()
  assert "| VP, corrector only | – | – | 19.06 ± .06 | – |" in text
  assert "NFE C2000 16" in text
  assert "runs/mnist5k_vp_discrete`" in text
  assert "VP, reverse diffusion: a corrector is better" in text
  (path,) = tmp_path.glob("*corrector*.json")
  result = results.Result(**json.loads(path.read_text()))
  assert set(result.values) == {"C2000"}


@pytest.mark.slow
def test_tables_2_and_3(workdir, tmp_path, capsys):
  weights = str(workdir)
  table2.main(
    weights,
    n=8,
    num_samples=10,
    sampling_batch=16,
    tolerance=0.05,
    out=str(tmp_path / "2"),
  )
  assert "| cont. (VE) |" in capsys.readouterr().out
  (path,) = (tmp_path / "2").glob("*.json")
  saved = json.loads(path.read_text())
  assert 0 < saved["values"]["NLL test"] < 20
  assert "uniform dequantisation (k + u) / 256" in saved["protocol"]
  table3.main(weights, n=10, sampling_batch=16, out=str(tmp_path / "3"))
  assert "| NCSN++ cont. (VE) | 2.38 | 9.83 |" in capsys.readouterr().out


@pytest.mark.slow
def test_figures_and_samples(workdir, tmp_path):
  weights = str(workdir)
  figures.main(weights, rows=1, columns=2, steps=3, out=str(tmp_path))
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {
    "trajectories.png",
    "pc.png",
    "interpolation.png",
    "temperature.png",
    "inpainting.png",
  }
  how = ScoreSampling(steps=2)
  sample.main(weights, how, n=8, batch_size=8, out=str(tmp_path))
  assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (8, 28, 28, 1)


@pytest.fixture(scope="module")
def ncsn(tmp_path_factory):
  config = ncsn_config.CONFIGS["mnist5k"]
  workdir = str(tmp_path_factory.mktemp("ncsn"))
  return train_ncsn(dataclasses.replace(config, workdir=workdir, smoke=True))


@pytest.mark.slow
def test_ncsn_trains(ncsn):
  model = models.load(str(ncsn))
  assert model.process.T == model.config.T


@pytest.mark.slow
def test_ncsns_table(ncsn, tmp_path):
  ncsn_table1.main(
    str(ncsn),
    n=10,
    sampling_batch=16,
    denoised=(True,),
    out=str(tmp_path),
  )
  text = (tmp_path / "table1.md").read_text()
  assert "| NCSNv2 | 8.40 ± .07 | 10.87 |" in text
  assert "denoising improves NCSNv2 (FID): not run" in text


def test_what_is_refused(tmp_path):
  with pytest.raises(ValueError, match="sub-VP SDE has no discrete levels"):
    Config(sde="subvp", continuous=False)
  with pytest.raises(ValueError, match="published network, got 'ddpm'"):
    Config(network="ddpm")
  with pytest.raises(ValueError, match="given as NAME:PATH"):
    model.load("vp/nothing:here.pth")
  with pytest.raises(FileNotFoundError):
    models.load(f"ve/cifar10_ncsnpp:{tmp_path / 'none.pth'}")
