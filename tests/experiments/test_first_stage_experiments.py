"""First stages: the original's training, step by step; scripts at tiny size."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_weights import seeded_state

from experiments.evaluate import Scoring
from experiments.first_stage import (
  model,
  step,
  table8,
)
from experiments.first_stage.config import CONFIGS, PUBLISHED, Config
from experiments.first_stage.train import train
from jaxgen import training
from jaxgen.convert import discriminator as convert_discriminator
from jaxgen.convert import first_stage as convert
from jaxgen.nn import posteriors
from jaxgen.nn.autoencoder import KL_AUTOENCODERS, VQ_AUTOENCODERS

DATA = Path(__file__).parents[1] / "data"
RELEASED = json.loads((DATA / "first_stage_configs.json").read_text())
ORIGINAL = np.load(DATA / "first_stage_training.npz")
SCORING = Scoring(reference="mnist5k:test[:40]")


def smoke_run(name, directory, **changes):
  config = dataclasses.replace(
    CONFIGS[name], workdir=str(directory), smoke=True, **changes
  )
  return train(config)


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
  return smoke_run("mnist5k_kl_f4", tmp_path_factory.mktemp("kl"))


@pytest.fixture(scope="module")
def vq(tmp_path_factory):
  return smoke_run("mnist5k_vq_f4", tmp_path_factory.mktemp("vq"))


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", RELEASED)
def test_configurations_are_the_released_ones(name):
  ours = dataclasses.asdict(CONFIGS[name])
  ours |= {k: list(v) for k, v in ours.items() if isinstance(v, tuple)}
  found = {field: ours[field] for field in RELEASED[name]}
  assert found.pop("lr") == pytest.approx(RELEASED[name]["lr"])
  assert found == {k: v for k, v in RELEASED[name].items() if k != "lr"}
  network = (KL_AUTOENCODERS | VQ_AUTOENCODERS)[name]
  assert model.make_autoencoder(CONFIGS[name]) == network


def test_every_row_of_table_8_has_a_configuration():
  """f, |Z| and c of the paper; lr by its rule; no run is of its own network."""
  paper = {row.name for row in table8.ROWS}
  assert paper == {name for name in CONFIGS if "-" in name}
  assert set(RELEASED) == set(PUBLISHED)
  for name in paper:
    config = CONFIGS[name]
    assert (config.name, table8.row_name(config)) == (name, name)
    assert config.lr == pytest.approx(4.5e-6 * config.batch_size)
    assert name.split("-")[1] == f"f{config.f}"
    assert (config.beta, config.legacy) == (0.25, True)
    assert config.ema_decay == config.decay_steps == 0
  z = {
    name: (CONFIGS[name].num_codes, CONFIGS[name].z_channels)
    for name in CONFIGS
  }
  assert z["vq-f2"] == (2048, 2)
  assert z["vq-f2-n64"] == (64, 2)
  assert z["vq-f4-n256"] == (256, 3)
  assert z["vq-f32"] == (16384, 16)
  assert z["kl-f2"] == (0, 2)
  assert z["kl-f16-c8"] == (0, 8)
  assert z["kl-f32-c16"] == (0, 16)
  assert table8.row_name(CONFIGS["mnist5k_kl_f4"]) == "kl-f4"
  assert table8.row_name(CONFIGS["openmoji_vq_f4"]) == "vq-f4-n256"


TINY = Config(
  name="tiny",
  image_size=16,
  channels=32,
  channel_mult=(1, 2),
  num_res_blocks=1,
  mid_attention=False,
  perceptual_weight=0.0,
  disc_layers=2,
  disc_start=1,
  lr=1e-3,
  batch_size=4,
)
TINY_VQ = dataclasses.replace(TINY, num_codes=20, z_channels=3)
NAMES = {
  "loss": "total_loss",
  "nll": "nll_loss",
  "rec": "rec_loss",
  "codebook": "quant_loss",
  "kl": "kl_loss",
}


def original_state(name, config):
  """The state that the original started from, weights drawn by their names."""
  shapes = json.loads(str(ORIGINAL[f"{name}_shapes"]))
  floats = {k: s for k, s in shapes.items() if "tracked" not in k}
  tensors = seeded_state(floats, output_axis=0)
  tensors |= {
    k: np.full_like(x, "var" in k) for k, x in tensors.items() if "running" in k
  }
  first = convert.from_original(tensors, model.make_autoencoder(config))
  second = convert_discriminator.from_original(
    tensors, model.make_discriminator(config)
  )
  keys = jax.random.split(jax.random.key(0))
  state = step.init_state(config, *keys)
  params = {"autoencoder": first, "discriminator": second["params"]}
  return dataclasses.replace(
    state, params=params, ema=first, memory=second["batch_stats"]
  )


@pytest.mark.parametrize(("name", "config"), [("kl", TINY), ("vq", TINY_VQ)])
def test_four_steps_are_the_originals(name, config, monkeypatch):
  """Losses, weights, logits and batch statistics, step by step.

  The discriminator starts at the second. Posteriors give their mean.
  """
  monkeypatch.setattr(posteriors, "sample", lambda key, p: p.mean)
  mesh = training.make_mesh(devices=jax.devices()[:1])
  train_step = step.make_step(config, model.make_perceptual(config), mesh)
  state = training.shard_state(mesh, original_state(name, config))
  rows = []
  for images in ORIGINAL["batches"]:
    state, metrics = train_step(state, {"image": jnp.asarray(images)})
    rows.append(metrics)
  compared = set(rows[0]) - {"grad_norm", "l1", "collapsed", "used"}
  for metric in compared:
    got = [float(row[metric]) for row in rows]
    want = ORIGINAL[f"{name}_{NAMES.get(metric, metric)}"]
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-4, err_msg=metric)
  assert len(compared) == (10 if name == "vq" else 9)
  if name == "vq":
    used = [20 * float(row["used"]) for row in rows]
    np.testing.assert_allclose(used, ORIGINAL["vq_cluster_usage"], rtol=1e-6)

  first = convert.to_original(
    state.params["autoencoder"], model.make_autoencoder(config)
  )
  second = convert_discriminator.to_original(
    {"params": state.params["discriminator"], "batch_stats": state.memory}
  )
  tensors = first | {f"loss.discriminator.{k}": x for k, x in second.items()}
  for tensor in ("main.3.running_mean", "main.6.running_var", "main.0.weight"):
    want = ORIGINAL[f"{name}_loss.discriminator.{tensor}"]
    got = tensors[f"loss.discriminator.{tensor}"]
    np.testing.assert_allclose(got, want, atol=2e-4)
  want = ORIGINAL[f"{name}_decoder.conv_out.weight"]
  np.testing.assert_allclose(
    tensors["decoder.conv_out.weight"], want, atol=2e-4
  )
