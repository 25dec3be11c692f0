"""The improved DDPM experiments, at tiny size."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import models
from experiments.iddpm import config as configs
from experiments.iddpm import model
from experiments.iddpm.config import CONFIGS
from experiments.iddpm.train import train
from experiments.likelihood import bits_per_dim
from experiments.sampling import Sampling, generate, make_draw
from jaxgen.nn.openai_unet import IDDPM_NETWORKS


@pytest.mark.parametrize(
  "name", ["imagenet64", "imagenet64_cond", "cifar10", "lsun_bedroom"]
)
def test_configurations_are_the_released_networks(name):
  """Whose parameter counts are tested with the networks."""
  unet = model.make_unet(CONFIGS[name])
  assert unet == IDDPM_NETWORKS[name].clone(dtype=unet.dtype)
  assert unet.dtype == np.float32


@pytest.mark.parametrize(
  ("name", "T", "lr", "batch_size", "schedule", "rescaled"),
  [
    ("imagenet64", 4000, 1e-4, 128, "cosine", True),
    ("imagenet64_cond", 4000, 3e-4, 2048, "cosine", False),
    ("cifar10", 4000, 1e-4, 128, "cosine", True),
    ("lsun_bedroom", 1000, 1e-4, 128, "linear", False),
  ],
)
def test_hyper_parameters_are_the_releases(
  name, T, lr, batch_size, schedule, rescaled
):
  config = CONFIGS[name]
  assert (config.T, config.lr, config.batch_size) == (T, lr, batch_size)
  assert (config.schedule, config.rescale_timesteps) == (schedule, rescaled)
  assert config.ema_decay == 0.9999
  weight = 0.001 if rescaled else 1 / T
  assert config.hybrid_weight == pytest.approx(weight)


def test_linear_betas_shrink_with_T():
  """beta from 1e-4 / 4 to 0.02 / 4; alpha-bar computed in float64 by hand."""
  config = dataclasses.replace(CONFIGS["cifar10"], schedule="linear")
  process = model.make_process(config)
  alpha_bar = process.alpha(np.array([1, 1001, 2001, 4000])) ** 2
  wanted = [0.999975, 0.5231160605, 0.07874647522, 4.246652276e-05]
  np.testing.assert_allclose(alpha_bar, wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def vlb_run(tmp_path_factory):
  config = dataclasses.replace(
    CONFIGS["mnist5k"],
    objective="vlb",
    num_classes=10,
    workdir=str(tmp_path_factory.mktemp("vlb")),
    smoke=True,
  )
  return config, train(config)


@pytest.mark.slow
def test_the_loss_history_is_kept_and_continued(vlb_run):
  """Trained on, it counts every example; a fresh start would not."""
  config, workdir = vlb_run
  first = workdir / "metrics.jsonl"
  assert len(first.read_text().splitlines()) == 6
  train(dataclasses.replace(config, steps=8))
  # smoke() sets the steps: the same run again trains no further.
  assert len(first.read_text().splitlines()) == 6
  import orbax.checkpoint as ocp

  path = workdir / "checkpoints" / "6" / "arrays" / "memory"
  memory = ocp.StandardCheckpointer().restore(path)
  counts = memory["counts"] if isinstance(memory, dict) else memory[1]
  assert np.sum(np.minimum(counts, 10)) == np.sum(counts) <= 6 * 8
  assert np.sum(counts) > 6 * 8 / 2


@pytest.mark.slow
def test_a_class_conditional_model_samples_and_is_bounded(vlb_run):
  loaded = models.load(str(vlb_run[1]))
  assert loaded.num_classes == 10
  draw = make_draw(loaded, Sampling("ddpm", 5, "respaced"))
  images = generate(draw, loaded.params, 4)
  assert images.shape == (4, 28, 28, 1)
  mean, error = bits_per_dim(loaded, "test[:8]", 8, chunk=4)
  assert 0 < mean < 100
  assert error > 0


@pytest.mark.parametrize("objective", ["simple", "hybrid"])
def test_objectives_fit_the_network(objective):
  """Shapes alone: nothing is compiled."""
  config = dataclasses.replace(
    configs.smoke(CONFIGS["mnist5k"]), objective=objective, schedule="linear"
  )
  unet = model.make_unet(config)
  params = jax.eval_shape(
    lambda key: model.init_params(config, unet, key), jax.random.key(0)
  )
  loss = model.make_loss(config, model.make_process(config), unet)
  batch = {"image": jax.ShapeDtypeStruct((8, 28, 28, 1), np.float32)}
  found = jax.eval_shape(loss, params, jax.random.key(0), batch)
  assert jax.tree.leaves(found)[0].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["simple", "hybrid"])
def test_objectives_train(objective, tmp_path):
  config = dataclasses.replace(
    CONFIGS["mnist5k"],
    objective=objective,
    workdir=str(tmp_path),
    smoke=True,
    schedule="linear",
  )
  workdir = train(config)
  lines = [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  assert lines[-1]["step"] == 6
  assert np.isfinite([line["loss"] for line in lines]).all()


def test_published_files_are_known_by_name(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such path"):
    model.load(str(tmp_path / "cifar10_uncond_50M_500K.pt"))
  (tmp_path / "other.pt").write_bytes(b"")
  with pytest.raises(ValueError, match=r"other\.pt is none of the released"):
    model.load(str(tmp_path / "other.pt"))
  shapes = jax.eval_shape(
    lambda key: model.init_params(
      CONFIGS["cifar10"], model.make_unet(CONFIGS["cifar10"]), key
    ),
    jax.random.key(0),
  )
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 52_546_438
