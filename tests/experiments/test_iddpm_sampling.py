"""Ways to sample, conditions and guidance of improved DDPM's experiments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd
from experiments import models
from experiments.iddpm import adm, classifier, model, sample
from experiments.iddpm.config import CONFIGS
from experiments.iddpm.train import train
from experiments.likelihood import bits_per_dim
from experiments.models import Model
from experiments.sampling import Sampling, generate, make_draw, make_times
from jaxgen import data, training
from jaxgen.convert import openai
from jaxgen.nn.openai_classifier import CLASSIFIERS
from jaxgen.nn.openai_unet import ADM_NETWORKS, IDDPM_NETWORKS

pytestmark = pytest.mark.usefixtures("one_device")

SMALL = Sampling("ddim", 4)


def gaussian_model(T=100, **fields):
  """The exact denoiser of x_0 ~ N(label / 10, 0.1^2), as a model."""
  process = jd.DiscreteProcess.from_betas(jd.cosine_betas(T))
  config = dataclasses.replace(
    CONFIGS["mnist5k"], T=T, image_size=4, num_classes=4
  )

  def denoiser(params, labels):
    mean = params * (labels[:, None, None, None] - 2) / 10

    def exact(x, t):
      alpha, sigma = jd.marginal(process, t, x)
      gain = alpha * 0.01 / (alpha**2 * 0.01 + sigma**2)
      return jd.from_x_0(process, x, t, mean + gain * (x - alpha * mean))

    return exact

  one = jnp.float32(1)
  return Model(config, process, one, denoiser, jd.FIXED_SMALL, 4, **fields)


def mean_of(how, **fields):
  exact = gaussian_model(**fields)
  draw = make_draw(exact, dataclasses.replace(how, clip=False))
  x = draw(exact.params, jax.random.split(jax.random.key(0), 64))
  return float(x.mean()), float(x.std())


@pytest.mark.parametrize(
  "how",
  [
    Sampling("ddpm", grid="50"),
    Sampling("ddpm", grid="10,10,20"),
    Sampling("ddim", grid="ddim20"),
    Sampling("dpm_solver_pp_2m", 20),
    Sampling("plms", 20),
    Sampling("edm_heun", 20),
  ],
)
def test_every_sampler_draws_the_labels_gaussian(how):
  """Mean (label - 2) / 10 and standard deviation 0.1, by a known denoiser."""
  mean, std = mean_of(dataclasses.replace(how, label=3))
  assert mean == pytest.approx(0.1, abs=0.02)
  assert std == pytest.approx(0.1, abs=0.03)


def test_labels_of_a_batch_are_told_image_by_image():
  exact = gaussian_model()
  draw = make_draw(exact, Sampling("ddim", 20, clip=False))
  keys = jax.random.split(jax.random.key(0), 64)
  label = jnp.arange(64) % 4
  x = np.asarray(draw(exact.params, keys, {"label": label}))
  means = [x[label == k].mean() for k in range(4)]
  np.testing.assert_allclose(means, [-0.2, -0.1, 0, 0.1], atol=0.02)
  # Of its own accord each image has one of all labels.
  own = np.asarray(draw(exact.params, keys)).mean((1, 2, 3))
  assert own.std() > 0.08


def test_classifier_free_guidance_moves_along_the_difference():
  """Label 2 (mean 0) is none; scale 3 triples the mean of label 3."""
  how = Sampling("ddim", 50, label=3)
  mean, _ = mean_of(dataclasses.replace(how, guidance=3.0), no_label=2)
  assert mean == pytest.approx(0.3, abs=0.02)
  assert mean_of(how, no_label=2)[0] == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_classifier_guidance_is_bayes_rule(name):
  """p(x) p(y | x): the labelled Gaussian times exp(c x) moves its mean.

  At x_0, log p(y | x_0) = c sum x_0 shifts the mean by 0.01 c; at x_t the same
  factor is exp(c gain sum x_t) up to a constant.
  """
  T = 1000
  process = gaussian_model(T).process

  def log_prob(params, labels):
    def of(x, t):
      alpha, sigma = jd.marginal(process, t, x)
      gain = alpha * 0.01 / (alpha**2 * 0.01 + sigma**2)
      return (10.0 * gain * x).sum((1, 2, 3))

    return of

  how = Sampling(name, T, label=2)
  mean, _ = mean_of(how, T=T, log_prob=log_prob)
  assert mean == pytest.approx(0.1, abs=0.02)
  none = dataclasses.replace(how, classifier_scale=0.0)
  mean, _ = mean_of(none, T=T, log_prob=log_prob)
  assert mean == pytest.approx(0, abs=0.02)


def test_respacings_are_the_papers():
  exact = gaussian_model()._replace(
    process=jd.DiscreteProcess.from_betas(jd.linear_betas(1000))
  )
  count = lambda grid: len(make_times(exact, Sampling(grid=grid))) - 1
  assert [count(g) for g in ("250", "10,10,20", "ddim50")] == [250, 40, 50]
  with pytest.raises(ValueError, match=r"a grid is one of even, .* 'evn'"):
    count("evn")


def test_what_does_not_fit_is_refused():
  exact = gaussian_model()
  with pytest.raises(ValueError, match=r"label must lie in \[0, 4\)"):
    make_draw(exact, Sampling(label=4))
  with pytest.raises(ValueError, match="hidden labels"):
    make_draw(exact, Sampling(guidance=2.0))


@pytest.mark.parametrize("name", list(adm.CONFIGS))
def test_adm_configurations_are_the_released_networks(name):
  """Whose parameter counts are tested with the networks."""
  unet = model.make_unet(adm.CONFIGS[name])
  names = {"adm_upsampler_64_256": "upsample_64_256"}
  names |= {"adm_upsampler_128_512": "upsample_128_512"}
  key = names.get(name, name.removeprefix("adm_"))
  wanted = ADM_NETWORKS["lsun" if key.startswith("lsun") else key]
  assert unet == wanted.clone(dtype=unet.dtype)


def test_the_upsampler_is_the_released_network():
  unet = model.make_unet(CONFIGS["upsampler"])
  assert unet == IDDPM_NETWORKS["upsample_64_256"].clone(dtype=unet.dtype)
  config = CONFIGS["upsampler"]
  assert (config.T, config.lr, config.batch_size) == (4000, 3e-4, 256)


def test_classifier_configurations_are_the_released_networks():
  for name, network in CLASSIFIERS.items():
    made = classifier.make_classifier(classifier.CONFIGS[name])
    assert made == network.clone(dtype=made.dtype)


def test_blocks_are_averaged():
  x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
  small = data.shrink(x, 2)
  np.testing.assert_array_equal(small[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
  with pytest.raises(ValueError, match="height 3 divides"):
    data.shrink(x, 3)


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory):
  """A smoke upsampler that is told labels, half of them hidden."""
  config = dataclasses.replace(
    CONFIGS["mnist5k"],
    num_classes=10,
    label_dropout=0.5,
    low_res_size=7,
    workdir=str(tmp_path_factory.mktemp("upsampler")),
    smoke=True,
  )
  return train(config)


@pytest.mark.slow
def test_super_resolution_end_to_end(upsampler, tmp_path):
  """Trained, bounded, and sampled from the test split and from a file."""
  loaded = models.load(str(upsampler))
  mean, _ = bits_per_dim(loaded, "test[:8]", 8, batch_size=8)
  assert 0 < mean < 100
  sample.main(str(upsampler), SMALL, n=8, batch_size=8, out=str(tmp_path))
  assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (8, 28, 28, 1)
  small = np.zeros((3, 7, 7, 1), np.uint8)
  np.savez(tmp_path / "low.npz", small, np.arange(3))
  given, n = sample.small_images(loaded, str(tmp_path / "low.npz"), 5)
  assert n == 3
  assert given["label"].tolist() == [0, 1, 2]
  assert (given["low_res"] == -1).all()
  np.savez(tmp_path / "large.npz", np.zeros((3, 8, 8, 1), np.uint8))
  with pytest.raises(ValueError, match="of 7 x 7, got 8 x 8"):
    sample.small_images(loaded, str(tmp_path / "large.npz"), 5)


@pytest.mark.slow
def test_the_small_image_matters_row_by_row(upsampler):
  """Image i depends on row i of the small images, and on no other."""
  loaded = models.load(str(upsampler))
  params = jax.tree.map(  # smoke training barely leaves the zero output
    lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape),
    loaded.params,
  )
  draw = make_draw(loaded, SMALL)
  low = np.zeros((8, 7, 7, 1), np.float32)
  label = np.zeros(8, np.int32)
  other = low.copy()
  other[5] = 1
  first = generate(draw, params, 8, given={"low_res": low, "label": label})
  second = generate(draw, params, 8, given={"low_res": other, "label": label})
  changed = (first != second).any((1, 2, 3))
  assert changed.tolist() == [i == 5 for i in range(8)]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
  """A smoke classifier of the upsampler's noise levels."""
  config = dataclasses.replace(
    classifier.CONFIGS["mnist5k"],
    T=50,
    channels=32,
    channel_mult=(1,),
    attention_resolutions=(),
    num_head_channels=32,
    batch_size=8,
    steps=3,
    decay_steps=3,
    log_every=1,
    workdir=str(tmp_path_factory.mktemp("classifier")),
  )
  return classifier.train(config)


@pytest.mark.slow
def test_both_guidances_sample(upsampler, judge, tmp_path):
  how = Sampling("ddpm", 3, label=7, guidance=2.0, classifier_scale=2.0)
  sample.main(
    str(upsampler),
    how,
    n=8,
    batch_size=8,
    classifier=str(judge),
    out=str(tmp_path),
  )
  assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (8, 28, 28, 1)
  saved = training.restore_experiment(judge / "checkpoints")
  assert saved["weight_decay"] == 0.05
  loaded = models.load(str(upsampler))
  assert (loaded.num_classes, loaded.no_label) == (10, 10)
  other = dataclasses.replace(loaded.config, T=60)
  with pytest.raises(ValueError, match=r"T 60, its classifier 50"):
    classifier.guide(loaded._replace(config=other), str(judge))


def test_a_released_upsampler_samples(tmp_path, monkeypatch):
  """The file's name chooses network and configuration; here both are tiny."""
  torch = pytest.importorskip("torch")
  name = "upsample_cond_500K.pt"
  config = dataclasses.replace(
    CONFIGS["upsampler"],
    image_size=8,
    low_res_size=4,
    num_classes=3,
    channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_resolutions=(8,),
    T=50,
  )
  unet = model.make_unet(config)
  params = model.init_params(config, unet, jax.random.key(0))
  params["conv_out"]["kernel"] += 0.1
  state = openai.to_original(params, unet)
  torch.save({k: torch.tensor(v) for k, v in state.items()}, tmp_path / name)
  monkeypatch.setitem(openai.MARCH_2021, name, unet)
  monkeypatch.setitem(model.CONFIGS, "upsampler", config)
  small = np.zeros((4, 4, 4, 3), np.uint8)
  np.savez(tmp_path / "small.npz", small, np.array([0, 1, 2, 0]))
  sample.main(
    str(tmp_path / name),
    Sampling("ddim", grid="ddim5"),
    n=4,
    batch_size=8,
    low_res=str(tmp_path / "small.npz"),
    out=str(tmp_path),
  )
  found = np.load(tmp_path / "samples.npz")["arr_0"]
  assert found.shape == (4, 8, 8, 3)
  loaded = models.load(str(tmp_path / name))
  for a, b in zip(
    jax.tree.leaves(loaded.params), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_array_equal(a, b)
