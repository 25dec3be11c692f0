"""BEiT's configurations against the paper's numbers, and its statistics."""

import dataclasses

import numpy as np
import pytest
import tyro

from experiments.beit import (
  ablation,
  accuracy,
  linear_probe,
  model,
  pretrain,
  table1,
  table4,
)
from experiments.beit.batches import labelled, stratified
from experiments.beit.config import CONFIGS, Pretrain
from experiments.beit.finetune_config import CONFIGS as FINETUNES
from experiments.beit.finetune_config import Finetune
from experiments.beit.probe_config import CONFIGS as PROBES
from jaxgen.nn.beit import BEITS, Classifier, MaskedImageModel


def test_what_cannot_be_configured():
  mnist = CONFIGS["mnist5k"]
  for changes, message in (
    ({"num_masked": 50}, r"in \[0, 49\], got 50"),
    ({"num_masked": 0}, "recover must be 'all'"),
    ({"image_size": 30}, "multiple of patch_size = 4, got 30"),
    ({"steps": 10_000}, "at least steps = 10000"),
    ({"lr": 0.0}, "lr must be positive"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
  ):
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(mnist, **changes)
  with pytest.raises(ValueError, match="needs --tokenizer"):
    pretrain.load_tokenizer(mnist)
  for changes, message in (
    ({"labels": -1}, "labels"),
    ({"smoothing": 1.0}, "smoothing"),
    ({"crop_pct": 0.0}, "crop_pct"),
  ):
    with pytest.raises(ValueError, match=message):
      Finetune(**changes)
  with pytest.raises(ValueError, match="needs --init"):
    linear_probe.probe(PROBES["mnist5k"])
  wrong = dataclasses.replace(FINETUNES["mnist5k"], num_classes=9)
  with pytest.raises(ValueError, match="has 10 classes, got num_classes = 9"):
    labelled(wrong)


def test_pre_training_is_the_papers():
  """Table 12, the released commands; steps of 1,281,167 and 14,197,122."""
  common = ("lr", "min_lr", "weight_decay", "b2", "drop_path", "batch_size")
  published = {k: c for k, c in CONFIGS.items() if "in1k" in k or "in22k" in k}
  assert len(published) == 7
  for config in published.values():
    assert [getattr(config, name) for name in common] == [
      1.5e-3, 1e-5, 0.05, 0.999, 0.1, 2048,
    ]  # fmt: skip
    assert (config.num_masked, config.min_block, config.grid) == (75, 16, 14)
    assert (config.jitter, config.crop_area) == (0.4, 0.08)
  schedule = {k: (c.warmup, c.decay_steps) for k, c in published.items()}
  assert schedule["base_plain_in1k"] == (10 * 625, 800 * 625)
  assert schedule["base_plain_in1k_300ep"] == (10 * 625, 300 * 625)
  assert schedule["large_in22k"] == (10_000, 150 * 6932)
  for name, config in published.items():
    plain, large = "plain" in name, name.startswith("large")
    assert config.clip_norm == (1.0 if large else 3.0)
    gamma = None if plain else 1e-5 if large else 0.1
    assert config.layer_scale == gamma
    assert config.absolute_positions == plain
    assert config.relative_positions == ("none" if plain else "shared")
    assert config.normalize == ("half" if "22k" in name else "imagenet")


# name: rate, epochs, warm-up epochs, batch, layer decay, drop path, weight
# decay, mixup, clipping; of the README and Table 13.
RECIPES = {
  "base_pt22k": (4e-3, 100, 20, 1024, 0.65, 0.1, 0.05, 0.8, None),
  "large_pt22k": (1e-3, 50, 5, 1024, 0.75, 0.2, 0.05, 0.8, None),
  "base_22kto1k": (2e-5, 30, 5, 512, 0.85, 0.1, 1e-8, 0, None),
  "large_22kto1k": (2e-5, 30, 5, 512, 0.9, 0.4, 1e-8, 0, None),
  "base_in22k": (3e-3, 90, 5, 4096, 0.65, 0.2, 0.05, 0, 3.0),
  "large_in22k": (2e-3, 90, 5, 2048, 0.75, 0.2, 0.05, 0, 1.0),
}


@pytest.mark.parametrize("name", RECIPES)
def test_fine_tuning_is_the_releases(name):
  c = FINETUNES[name]
  images = 14_197_122 if name.endswith("in22k") else 1_281_167
  epoch = images // c.batch_size
  assert (
    c.lr,
    c.decay_steps / epoch,
    c.warmup / epoch,
    c.batch_size,
    c.layer_decay,
    c.drop_path,
    c.weight_decay,
    c.mixup,
    c.clip_norm,
  ) == RECIPES[name]
  assert c.cutmix == (1.0 if c.mixup else 0.0)
  assert (c.min_lr, c.rand_augment, c.erasing, c.smoothing) == (
    1e-6, 9, 0.25, 0.1,
  )  # fmt: skip
  assert (c.normalize, c.relative_positions) == ("half", "per_block")
  assert c.num_classes == (21_841 if name.endswith("in22k") else 1000)


def test_other_image_sizes_and_the_probe():
  for name, config in FINETUNES.items():
    if config.dataset == "imagenet2012":
      assert config.crop_pct == (0.875 if config.image_size < 384 else 1.0)
      assert (config.image_size > 224) == name.endswith(("384", "512"))
  probe, paper = PROBES["in1k"], PROBES["in1k_paper"]
  assert (probe.lr, probe.weight_decay, probe.batch_size) == (4e-3, 1e-4, 1024)
  assert (probe.decay_steps, probe.epoch_steps) == (100 * 1251, 1251)
  assert (probe.features, paper.features) == ("cls_mean", "mean")
  assert paper.decay_steps == 50 * 1251


def test_networks_are_the_published_ones():
  """Whose parameters are counted in the tests of networks."""
  for name, config in CONFIGS.items():
    kind = f"{name.split('_')[0]}{'_plain' if 'plain' in name else ''}"
    if kind in BEITS:
      wanted = BEITS[kind].clone(drop_path=0.1)
      assert model.make_mim(config, 8192) == MaskedImageModel(wanted, 8192)
  for name, config in FINETUNES.items():
    kind = f"{name.split('_')[0]}{'_plain' if 'plain' in name else ''}"
    if kind in BEITS:
      positions = "none" if "plain" in name else "per_block"
      wanted = BEITS[kind].clone(
        drop_path=config.drop_path,
        mask_token=False,
        relative_positions=positions,
      )
      found = model.make_classifier(config)
      assert found == Classifier(wanted, config.num_classes)


def test_imagenets_normalisation():
  """Its mean becomes 0; a deviation above it, 1."""
  mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  x = np.stack([2 * mean - 1, 2 * (mean + std) - 1])[:, None, None]
  found = model.normalized(x.astype(np.float32), "imagenet")[:, 0, 0]
  np.testing.assert_allclose(found, [[0] * 3, [1] * 3], atol=1e-5)
  np.testing.assert_array_equal(model.normalized(x, "half"), x)
  with pytest.raises(ValueError, match="needs images of 3 channels, got 1"):
    model.normalized(x[..., :1], "imagenet")


def test_the_same_share_of_every_class():
  rng = np.random.default_rng(0)
  labels = np.repeat([0, 1, 2], [60, 30, 10])
  chosen = stratified(rng, labels, 20)
  assert np.bincount(labels[chosen]).tolist() == [12, 6, 2]
  assert len(set(chosen.tolist())) == 20
  # 3, 1.5 and 0.5: one of the two halves is rounded up.
  found = np.bincount(labels[stratified(rng, labels, 5)], minlength=3)
  assert found.sum() == 5
  assert found[0] == 3
  both = {tuple(stratified(rng, labels, 100)) for _ in range(2)}
  assert both == {tuple(range(100))}
  with pytest.raises(ValueError, match="labels = 101 were asked for of 100"):
    stratified(rng, labels, 101)


def test_few_labels_fill_a_batch():
  """20 of mnist5k's digits, two of each, over and over."""
  config = dataclasses.replace(FINETUNES["mnist5k"], labels=20)
  source = labelled(config)
  assert len(source) == 40  # twice 20 for batches of 32
  seen = [source[i] for i in range(len(source))]
  assert np.bincount([s["label"] for s in seen]).tolist() == [4] * 10
  assert len({s["image"].tobytes() for s in seen}) == 20
  again = labelled(config)
  np.testing.assert_array_equal(again[7]["image"], seen[7]["image"])
  other = labelled(dataclasses.replace(config, seed=1))
  assert any((other[i]["image"] != seen[i]["image"]).any() for i in range(20))


@pytest.mark.parametrize(
  ("right", "n", "interval"),
  [
    (81, 263, (0.2553, 0.3662)),
    (15, 148, (0.0624, 0.1605)),
    (0, 20, (0.0, 0.1611)),
    (1, 29, (0.0061, 0.1718)),
  ],
)
def test_wilsons_interval(right, n, interval):
  """Newcombe 1998, "Two-sided confidence intervals", Table I, method 3."""
  found = accuracy.wilson(right / n, n)
  np.testing.assert_allclose(found, interval, atol=6e-5)


def test_small_configurations_agree():
  """Each fits the other's backbone."""
  for name in ("mnist5k", "openmoji64_small", "openmoji64"):
    config = FINETUNES[name]
    assert model.like(config, CONFIGS[name]) == config
    assert PROBES[name].num_classes == config.num_classes
  assert isinstance(CONFIGS["mnist5k"], Pretrain)


def test_every_released_classifier_has_a_row():
  """The names of the release's README, and the paper's own runs."""
  rows = {
    "beit_base_patch16_224_pt22k_ft1k": "83.7",
    "beit_base_patch16_224_pt22k_ft22kto1k": "85.2",
    "beit_base_patch16_384_pt22k_ft22kto1k": "86.8",
    "beit_large_patch16_224_pt22k_ft1k": "86.0",
    "beit_large_patch16_224_pt22k_ft22kto1k": "87.4",
    "beit_large_patch16_384_pt22k_ft22kto1k": "88.4",
    "beit_large_patch16_512_pt22k_ft22kto1k": "88.60",
  }
  paper = {row.name: row.paper["top-1"] for row in table1.ROWS}
  found = {name: paper[table1.row_name(f"{name}.pth")] for name in rows}
  assert found == rows
  for row in table1.ROWS:
    name = row.command.rpartition("finetune-")[2]
    assert name in FINETUNES, name


def test_the_ablations_command_line():
  """Fields of the pre-training and of the table are flags beside each other."""
  what = tyro.extras.overridable_config_cli(
    ablation.tables(table4.SMALL_LABELS),
    args=["mnist5k", "--rows", "beit", "--lr", "1e-4", "--labels", "50"],
  )
  assert (what.rows, what.labels, what.config.lr) == (("beit",), 50, 1e-4)
  assert what.config.name == "mnist5k"
