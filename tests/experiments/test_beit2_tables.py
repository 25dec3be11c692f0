"""BEiT v2's tables: what a probe is told, and networks on other images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import results
from experiments.beit import linear_probe, probe_config
from experiments.beit.accuracy import Accuracy
from experiments.beit.finetune import among
from experiments.beit.segment_config import CONFIGS as SEGMENTATIONS
from experiments.beit2 import (
  ablation,
  ade20k,
  finetune,
  pretrain,
  table2,
  table3,
  table4,
  table5,
  table6,
)
from jaxgen import training


def saved(directory, config):
  """A workdir of pre-training, without a network."""
  fields = {"experiment": "beit_pretrain", **dataclasses.asdict(config)}
  state = training.init_state(
    {"w": jnp.zeros(())}, optax.sgd(1.0), jax.random.key(0)
  )
  with training.Checkpoints(directory / "checkpoints", fields) as checkpoints:
    checkpoints.save(state)
  return str(directory)


def test_what_a_probe_is_told(tmp_path):
  """The class token, where the training had aggregation."""
  config = pretrain.CONFIGS["mnist5k"]
  plain = dataclasses.replace(config, early_layer=0)
  assert table2.told(saved(tmp_path / "a", config)) == "cls"
  assert table2.told(saved(tmp_path / "b", plain)) == "mean"
  assert table2.told("beitv2_base_patch16_224_pt1k.pth") == "cls"
  assert table2.told("beit_base_patch16_224_pt22k.pth") == "mean"


@pytest.mark.parametrize(
  ("features", "row"), [("cls", table2.BEIT2), ("mean", table2.BEIT)]
)
def test_the_last_block_is_reported(
  features, row, monkeypatch, tmp_path, capsys
):
  layers = tuple(Accuracy(top, 1.0, 0.1, 500) for top in (0.9, 0.7))
  seen = []

  def probe(config):
    seen.append(config.features)
    return linear_probe.Probed(layers)

  monkeypatch.setattr(table2, "probe", probe)
  monkeypatch.setattr(table2, "told", lambda init: features)
  config = dataclasses.replace(
    probe_config.CONFIGS["mnist5k"], init="runs/x", workdir=str(tmp_path)
  )
  table2.main(config)
  assert seen == [features]
  (path,) = tmp_path.glob("*.json")
  found = results.read(path)
  assert (found.row, found.values["top-1"]) == (row, pytest.approx(70.0))
  printed = capsys.readouterr().out
  assert "`python -m experiments.beit2.table2 mnist5k --init" in printed


def test_a_network_may_choose_among_some_classes():
  logits = jnp.array([[5.0, 1.0, 2.0, 9.0], [0.0, -1.0, -2.0, -3.0]])
  found = among(logits, [1, 2])
  np.testing.assert_array_equal(found.argmax(-1), [2, 1])
  np.testing.assert_array_equal(found[:, 1:3], logits[:, 1:3])
  np.testing.assert_array_equal(found[:, [0, 3]], -np.inf)


def test_robustness_is_judged_among_the_classes_there_are(monkeypatch):
  """Each set by itself, with the classes that its images have."""
  labels = {"imagenet_a": [7, 3, 7], "imagenet_r": [1], "imagenet_sketch": [0]}
  config = finetune.CONFIGS["large_1600ep"]
  judged = []

  def judge(config, network, params, classes):
    judged.append((config.test_dataset, config.test_split, classes))
    return Accuracy(0.25 * len(judged), 1.0, 1.0, 4)

  monkeypatch.setattr(table3.evaluate, "load", lambda path: (config, 0, 0))
  monkeypatch.setattr(table3.data, "load", lambda name, *rest: name)
  monkeypatch.setattr(table3, "labels_of", lambda name: np.array(labels[name]))
  monkeypatch.setattr(table3, "judge", judge)
  found = table3.measure("weights")
  assert judged == [
    ("imagenet_a", "test", [3, 7]),
    ("imagenet_r", "test", [1]),
    ("imagenet_sketch", "test", [0]),
  ]
  assert list(found.values.values()) == [25.0, 50.0, 75.0]
  assert found.row == "BEiT v2-L"
  text = results.table(table3.TITLE, table3.ROWS, [found])
  assert "| BEiT v2-L |  | 69.94 |  | 25.00 (4.56 to 69.94) |" in text


VARIANTS = table4.VARIANTS | table5.VARIANTS | {"CLIP": ablation.Variant()}


@pytest.mark.parametrize("name", list(ablation.STUDIES))
def test_rows_can_be_trained(name):
  """Each is a valid configuration; those of one tokenizer change it alike."""
  what = ablation.STUDIES[name]
  tokenizers = {}
  for row, variant in VARIANTS.items():
    vqkd = dataclasses.replace(what.vqkd, **variant.vqkd(what.vqkd))
    changes = variant.pretrain(what.pretrain)
    config = dataclasses.replace(what.pretrain, **changes)
    assert vqkd == what.vqkd or row in table4.VARIANTS
    assert (config.early_layer == 0) == (
      row in table4.VARIANTS or row == "none"
    )
    assert tokenizers.setdefault(variant.tokenizer, vqkd) == vqkd
  assert {row.name for row in table4.ROWS} == set(table4.VARIANTS)
  assert {row.name for row in table5.ROWS} == set(table5.VARIANTS)
  for table in (table4, table5, table6):
    named = {row.name for row in table.ROWS}
    for claim in table.CLAIMS:
      assert {claim.smaller[0], claim.larger[0]} <= named


def test_a_given_tokenizer_is_taken_where_it_is_not_varied(monkeypatch):
  what = dataclasses.replace(
    ablation.STUDIES["base_300ep"], tokenizer="vqkd.pth", workdir="w"
  )
  trained = []

  def train(config):
    trained.append((config.workdir, config.code_dim))

  monkeypatch.setattr(ablation.train_vqkd, "train", train)
  find = lambda variant: ablation.train_tokenizer(what, variant)
  assert str(find(table5.VARIANTS["depth-3"])) == "vqkd.pth"
  find(table4.VARIANTS["wide-codes"])
  assert trained == [("w/tokenizer-wide-codes", 4 * 32)]


def test_the_result_of_a_row():
  what = ablation.STUDIES["mnist5k"]
  config = dataclasses.replace(what.pretrain, tokenizer="/tmp/w/tokenizer-x")
  values = {
    ablation.DISTANCE: 0.125,
    ablation.USED: 0.75,
    ablation.TUNED: 90.0,
    ablation.PROBED: 80.0,
  }
  row = "decoder-3"
  found = ablation.make_result(
    table4.TITLE, row, what, config, values, 500, 60.0
  )
  assert found.config["tokenizer"] == "tokenizer-x"
  assert "with 200 labels; probe of the last block's class" in found.protocol
  text = results.table(table4.TITLE, table4.ROWS, [found])
  assert "|  | 97% |  |  | 0.1250 | 75.0% | 90.0 | 80.0 | mnist5k" in text
  assert "`python -m experiments.beit2.table4 mnist5k --rows decoder-3`" in text
  assert table6.row_name("mnist5k-cnn") == "classifier"
  assert table6.row_name("dino:a.pth") == "DINO"


@pytest.mark.parametrize(
  ("name", "row", "lr", "layer_decay"),
  [
    ("v2_base_512_mim", "BEiT v2-B", 5e-5, 0.75),
    ("v2_base_512", "BEiT v2-B, 21k labels", 5e-5, 0.85),
    ("v2_large_512_mim", "BEiT v2-L", 4e-5, 0.9),
    ("v2_large_512", "BEiT v2-L, 21k labels", 3e-5, 0.9),
  ],
)
def test_the_released_segmentation(name, row, lr, layer_decay):
  """semantic_segmentation/configs/beit/upernet of the release."""
  config = SEGMENTATIONS[name]
  assert ade20k.row_name(config) == row
  large = "large" in name
  assert (config.lr, config.layer_decay) == (lr, layer_decay)
  assert config.drop_path == (0.2 if large else 0.15)
  assert config.layer_scale == (1e-6 if large else 0.1)
  assert config.levels == ((7, 11, 15, 23) if large else (3, 5, 7, 11))
  assert (config.crop_size, config.stride, config.batch_size) == (512, 341, 16)
  assert (config.steps, config.warmup_steps) == (160_000, 1500)
  assert config.weight_decay == 0.05
  with pytest.raises(ValueError, match="has no row for base_512"):
    ade20k.row_name(SEGMENTATIONS["base_512"])


@pytest.mark.slow
def test_the_aggregation_is_varied(tmp_path):
  """Two rows at tiny size, of one tokenizer."""
  what = dataclasses.replace(
    ablation.STUDIES["mnist5k"],
    rows=("none", "own-head"),
    workdir=str(tmp_path),
    smoke=True,
  )
  table5.main(what)
  assert len(list(tmp_path.glob("tokenizer-*"))) == 1
  (path,) = tmp_path.glob("table-5/*none*.json")
  assert set(results.read(path).values) == set(ablation.COLUMNS)
  params = training.restore_params(
    tmp_path / "own-head-seed0/pretrain/checkpoints", "params"
  )
  assert {"aggregation_lm_head", "aggregation_1", "lm_head"} <= set(params)
