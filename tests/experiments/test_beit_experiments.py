"""BEiT: a chain of trainings at tiny size, evaluation and tables."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import fitting, tokenizers
from experiments.beit import (
  ablation,
  accuracy,
  evaluate,
  finetune,
  linear_probe,
  model,
  pretrain,
  table4,
  table5,
  table9,
  table11,
)
from experiments.beit.batches import labels_of
from experiments.beit.config import CONFIGS, PLUS
from experiments.beit.finetune_config import CONFIGS as FINETUNES
from experiments.beit.probe_config import CONFIGS as PROBES
from experiments.tokenizers import Tokenizer
from jaxgen import data, training
from jaxgen.convert import beit
from jaxgen.convert.state import write_safetensors
from jaxgen.nn.beit import Beit, Classifier

LEVELS = 8
SIZES = {"width": 32, "num_layers": 2, "num_heads": 2, "mlp_width": 64}
PER_BLOCK = PLUS | {"relative_positions": "per_block"}


def brightness(factor=4, channels=1):
  """A tokenizer whose tokens are the mean brightness of a square."""

  def encode(params, images):
    b, h, w, c = images.shape
    x = images.reshape(b, h // factor, factor, w // factor, factor, c)
    level = (x.mean((2, 4, 5)) + 1) / 2 * params["levels"]
    tokens = jnp.clip(level.astype(jnp.int32), 0, LEVELS - 1)
    return tokens.reshape(b, -1)

  params = {"levels": jnp.float32(LEVELS)}
  return Tokenizer(params, encode, None, LEVELS, factor, channels)


@pytest.fixture(scope="module", autouse=True)
def no_plots(one_device):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fitting, "plot_loss", lambda metrics, path: None)
    yield


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
  """Workdirs of a pre-training, then a fine-tuning and a probe of it."""
  root = tmp_path_factory.mktemp("beit")
  patch = pytest.MonkeyPatch()
  patch.setattr(tokenizers, "load", lambda path: brightness())
  pretrain.train(
    dataclasses.replace(
      CONFIGS["mnist5k"],
      **PLUS,
      tokenizer="brightness",
      workdir=str(root / "pretrain"),
      smoke=True,
    )
  )
  patch.undo()
  tuned = dataclasses.replace(
    FINETUNES["mnist5k"],
    **PER_BLOCK,
    init=str(root / "pretrain"),
    labels=20,
    mixup=0.8,
    cutmix=1.0,
    rand_augment=9,
    erasing=0.25,
    ema_decay=0.5,
    split="train[:200]",
    test_split="test[:24]",
    workdir=str(root / "finetune"),
    smoke=True,
  )
  probed = dataclasses.replace(
    PROBES["mnist5k"],
    init=str(root / "pretrain"),
    split="train[:200]",
    test_split="test[:24]",
    workdir=str(root / "probe"),
    smoke=True,
  )
  return root, finetune.train(tuned), linear_probe.probe(probed)


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def paths(tree):
  found = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(k, simple=True, separator="/") for k, _ in found}


def test_a_fresh_network_says_nothing(chain):
  """The first losses are those of uniform predictions: log K."""
  root, _, _ = chain
  first = lines(root / "pretrain")[0]
  assert first["loss"] == pytest.approx(np.log(LEVELS), abs=0.05)
  assert 0 < first["masked"] <= 20 / 49
  assert 1 / LEVELS <= first["most_common"] <= 1
  assert lines(root / "finetune")[0]["loss"] == pytest.approx(
    np.log(10), abs=1e-2
  )


def test_nothing_of_the_tokenizer_is_in_a_checkpoint(chain):
  root, _, _ = chain
  params = training.restore_params(root / "pretrain/checkpoints", "params")
  assert set(params) == {"backbone", "norm", "lm_head"}
  assert not any("levels" in name for name in paths(params))
  saved = training.restore_params(root / "probe/checkpoints", "params")
  assert set(saved) == {"kernel", "bias"}


def test_fine_tuning_starts_from_pre_training(chain):
  """What is shared by all blocks becomes a copy for each, the rest as it is."""
  root, found, _ = chain
  config = dataclasses.replace(
    FINETUNES["mnist5k"], **SIZES | PER_BLOCK, init=str(root / "pretrain")
  )
  params = model.init_classifier(config, jax.random.key(0))["backbone"]
  old = training.restore_params(root / "pretrain/checkpoints", "params")
  old = old["backbone"]
  shared = old.pop("relative_bias")["table"]
  old.pop("mask_token")
  for block in ("block_0", "block_1"):
    table = params[block].pop("relative_bias")["table"]
    np.testing.assert_array_equal(table, shared)
  jax.tree.map(np.testing.assert_array_equal, params, old)
  assert found.n == 24
  result = json.loads((root / "finetune/result.json").read_text())
  assert result["top1"] == found.top1
  assert result["config"]["labels"] == 20


def test_fine_tuning_goes_on_from_fine_tuning(chain):
  """The classifier comes along, unless it has other classes."""
  root, _, _ = chain
  config = dataclasses.replace(
    FINETUNES["mnist5k"], **SIZES | PER_BLOCK, init=str(root / "finetune")
  )
  found = model.init_classifier(config, jax.random.key(0))
  saved = training.restore_params(root / "finetune/checkpoints", "ema")
  jax.tree.map(np.testing.assert_array_equal, found, saved)
  other = dataclasses.replace(config, num_classes=7)
  found = model.init_classifier(other, jax.random.key(0))
  assert found["head"]["kernel"].shape == (32, 7)
  np.testing.assert_array_equal(
    found["fc_norm"]["scale"], saved["fc_norm"]["scale"]
  )


def test_a_probe_reports_its_best_block(chain):
  root, _, found = chain
  tops = [layer.top1 for layer in found.layers]
  assert len(tops) == 2
  assert found.best.top1 == max(tops) == tops[found.layer - 1]
  result = json.loads((root / "probe/result.json").read_text())
  assert (result["layer"], result["top1"]) == (found.layer, max(tops))
  assert result["interval"] == list(found.best.interval())


def test_what_a_block_tells(chain):
  """Class token and mean of patches of all blocks, or one of them alone."""
  root, _, _ = chain
  config = dataclasses.replace(PROBES["mnist5k"], init=str(root / "pretrain"))
  x = np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 1)).astype("f")
  both = linear_probe.Frozen.load(config)
  mean, cls = (
    linear_probe.Frozen(dataclasses.replace(config, features=name), both.found)
    for name in ("mean", "cls")
  )

  @jax.jit
  def of(params):
    h = both.found.backbone.apply({"params": params}, x)
    return *(f.features(params, x) for f in (both, mean, cls)), h[1]

  told, alone, token, h = of(both.found.params)
  assert told.shape == (2, 2, 64)
  np.testing.assert_allclose(told[:, 1, :32], h[:, 0], atol=1e-6)
  np.testing.assert_allclose(told[:, 1, 32:], h[:, 1:].mean(1), atol=1e-6)
  np.testing.assert_array_equal(alone, told[..., 32:])
  np.testing.assert_array_equal(token, told[..., :32])
  key = jax.random.key(0)
  for frozen, width in ((both, 64), (mean, 32), (cls, 32)):
    state = linear_probe.init_state(frozen, key, key)
    assert state.params["kernel"].shape == (2, width, 10)
  fresh = linear_probe.Frozen.load(dataclasses.replace(config, fresh=True))
  assert paths(fresh.found.params) == paths(both.found.params)
  kernel = [f.found.params["block_0"]["attn"]["qkv"] for f in (both, fresh)]
  assert np.abs(kernel[0] - kernel[1]).max() > 1e-3


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"normalize": "imagenet"}, "trained with normalize = 'half'"),
    ({"layer_scale": None}, "gamma_1 is .* there and absent here"),
    ({"width": 64}, "one width, got 32 and 64"),
    ({"image_channels": 3}, "patch_embed/kernel is"),
  ],
)
def test_what_a_pre_training_cannot_start(chain, changes, message):
  root, _, _ = chain
  config = dataclasses.replace(
    FINETUNES["mnist5k"],
    **SIZES | PER_BLOCK | {"init": str(root / "pretrain")} | changes,
  )
  with pytest.raises(ValueError, match=message):
    model.init_classifier(config, jax.random.key(0))


def test_a_tokenizer_of_other_images_is_refused(monkeypatch):
  monkeypatch.setattr(tokenizers, "load", lambda path: brightness(channels=3))
  config = dataclasses.replace(CONFIGS["mnist5k"], tokenizer="x")
  with pytest.raises(ValueError, match="images of 3 channels, the network 1"):
    pretrain.load_tokenizer(config)


def test_what_the_ablation_asks_for():
  """A head of zeros predicts 0, or all tokens alike.

  The left half of the images is 1/2 and hidden, the right half -1.
  """
  tokens = dataclasses.replace(
    CONFIGS["mnist5k"],
    **SIZES | {"num_layers": 1},
    image_size=8,
    num_masked=2,
  )
  images = np.full((2, 8, 8, 1), -1.0, np.float32)
  images[:, :, :4] = 0.5
  mask = np.array([[[True, False], [True, False]]] * 2)
  tokens_of = brightness().encode(brightness().params, images)
  batch = {"image": images, "mask": mask, "tokens": tokens_of}

  def loss(key, **changes):
    config = dataclasses.replace(tokens, **changes)
    params = model.make_mim(config, LEVELS).init(key, images)["params"]
    zero = jax.tree.map(jnp.zeros_like, params["lm_head"])
    loss_fn = pretrain.make_loss(config, LEVELS)
    return loss_fn(params | {"lm_head": zero}, key, batch)

  @jax.jit
  def losses(key):
    return (
      loss(key, target="pixels"),
      loss(key, target="pixels", recover="all"),
      loss(key),
      loss(key, recover="all"),
    )

  found = losses(jax.random.key(0))
  values = [float(value) for value, _ in found]
  uniform = np.log(LEVELS)
  assert values == pytest.approx([0.25, (0.25 + 1) / 2, uniform, uniform])
  assert [float(m["masked"]) for _, m in found] == [0.5] * 4
  assert [float(m["most_common"]) for _, m in found[2:]] == [1, 0.5]


def test_a_full_step_fits_together():
  """BEiT-B with DALL-E's tokenizer; only shapes are computed."""
  from experiments.dvae import model as dvae_model
  from jaxgen.nn import dvae

  config = CONFIGS["base_plain_in1k"]
  networks = dvae_model.Networks(dvae.Encoder(), dvae.Decoder(), mapped=True)
  x = jnp.zeros((1, 112, 112, 3))
  encoder = jax.eval_shape(dvae.Encoder().init, jax.random.key(0), x)["params"]
  tokenizer = dvae_model.tokenizer(networks, {"encoder": encoder}, 3)
  assert tokenizer.factor * config.grid == 112
  key = jax.random.key(0)
  state = jax.eval_shape(
    lambda key: pretrain.init_state(config, tokenizer, key, key), key
  )
  second = jax.ShapeDtypeStruct((8, 112, 112, 3), jnp.float32)
  batch = {
    "image": jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32),
    "mask": jax.ShapeDtypeStruct((8, 14, 14), bool),
    "tokens": jax.eval_shape(tokenizer.encode, tokenizer.params, second),
  }
  assert batch["tokens"].shape == (8, 196)
  step = training.make_train_step(
    pretrain.make_loss(config, tokenizer.vocabulary),
    pretrain.make_optimizer(config),
    training.constant_ema(0.0),
    training.make_mesh(),
  )
  new, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.map(lambda x: x.shape, new) == jax.tree.map(
    lambda x: x.shape, state
  )
  assert set(metrics) == {
    "loss", "grad_norm", "accuracy", "masked", "most_common",
  }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recover", ["masked", "all"])
def test_micro_batches_are_as_the_batch(recover):
  """Without noise, and with as many masked patches in every image."""
  config = dataclasses.replace(
    CONFIGS["mnist5k"],
    **SIZES,
    batch_size=32,
    recover=recover,
    exact_mask=True,
    early_layer=1,
  )
  rng = np.random.default_rng(0)
  mask = np.zeros((32, 49), bool)
  for row in mask:
    row[rng.permutation(49)[:20]] = True
  images = rng.uniform(-1, 1, (32, 28, 28, 1)).astype("f")
  batch = {
    "image": images,
    "second": images,
    "mask": mask.reshape(32, 7, 7),
  }
  mesh, tokenizer = training.make_mesh(), brightness()
  found = []
  for accumulate in (1, 2):
    here = dataclasses.replace(config, accumulate=accumulate)
    step = pretrain.make_step(here, tokenizer, mesh)
    state = pretrain.init_state(here, tokenizer, *[jax.random.key(0)] * 2)
    state = training.shard_state(mesh, state)
    found.append(step(state, training.shard_batch(mesh, batch)))
  (one, metrics), (two, others) = found
  for name in ("loss", "grad_norm", "main", "aggregated", "accuracy"):
    np.testing.assert_allclose(metrics[name], others[name], rtol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    one.opt_state,
    two.opt_state,
  )


@pytest.mark.parametrize(
  ("config", "changes", "message"),
  [
    (CONFIGS["base_in1k"], {"accumulate": 3}, "divide batch_size = 2048, got"),
    (CONFIGS["base_in1k"], {"accumulate": 2}, "the same number of masked"),
    (FINETUNES["mnist5k"], {"accumulate": 0}, "at least 1 and divide batch_"),
  ],
)
def test_micro_batches_that_are_refused(config, changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(config, **changes)


def test_accuracy_counts_real_images():
  """Logits are given: ranks 0, 3, 5 and, of a filling, 0."""
  order = np.array([[0, 1, 2, 3, 4, 5], [1, 2, 3, 0, 4, 5], [1, 2, 3, 4, 5, 0]])
  order = np.concatenate([order, order[:1]])
  logits = np.zeros((4, 6), np.float32)
  np.put_along_axis(logits, order, np.arange(6, 0, -1.0)[None], 1)
  batch = {
    "image": np.concatenate([logits, logits]),
    "label": np.zeros(8, np.int32),
    "mask": np.array([True] * 3 + [False] * 5),
  }
  two = lambda params, batch: jnp.stack([batch["image"], -batch["image"]])
  found, mirrored = accuracy.measure(two, {}, [batch, batch])
  assert found.n == 6
  assert found.top1 == pytest.approx(1 / 3)
  assert found.top5 == pytest.approx(2 / 3)
  log_sum = np.log(np.exp(np.arange(1.0, 7)).sum())
  assert found.loss == pytest.approx(log_sum - (6 + 3 + 1) / 3, rel=1e-5)
  assert mirrored.top1 == pytest.approx(1 / 3)
  assert mirrored.top5 == pytest.approx(2 / 3)


def test_published_weights_are_evaluated(tmp_path):
  """A tiny classifier in the released layout, of emoji's groups."""
  backbone = Beit(8, 32, 2, 2, 64, relative_positions="per_block")
  network = Classifier(backbone.clone(mask_token=False), 11)
  x = jnp.zeros((1, 32, 32, 3))
  params = jax.jit(network.init)(jax.random.key(0), x)["params"]
  bias = jnp.where(jnp.arange(11) == 3, 9.0, 0.0)  # always group 3
  params["head"] = {**params["head"], "bias": bias}
  path = tmp_path / "beit_tiny_pt22k_ft22k.safetensors"
  write_safetensors(path, beit.to_original(jax.device_get(params)))
  found = evaluate.main(
    str(path), "openmoji/32", "test[:64]", batch_size=64, out=str(tmp_path)
  )
  labels = labels_of(data.load("openmoji/32", "test[:64]"))
  assert found.n == len(labels)
  assert found.top1 == pytest.approx((labels == 3).mean())
  saved = json.loads((tmp_path / f"{path.stem}.json").read_text())
  assert saved["config"]["normalize"] == "half"
  with pytest.raises(ValueError, match="mnist5k has 10 classes"):
    evaluate.main(str(path), "mnist5k", "test", out=str(tmp_path))


@pytest.mark.slow
def test_the_ablation_runs(tmp_path, monkeypatch, capsys):
  """All rows of Table 4 and one of Table 5, shrunk."""
  monkeypatch.setattr(tokenizers, "load", lambda path: brightness())
  config = dataclasses.replace(
    CONFIGS["mnist5k"],
    tokenizer="somewhere/brightness",
    workdir=str(tmp_path),
    smoke=True,
  )
  table4.main(ablation.Table(config, labels=20))
  text = (tmp_path / "table.md").read_text()
  for row in table4.VARIANTS:
    line = next(x for x in text.splitlines() if x.startswith(f"| {row} |"))
    assert "mnist5k (scaled-down replica)" in line
    assert f"table4 mnist5k --rows {row}" in line
    assert "in 6 of 8 with 20 labels" in line
  assert "16 steps of 8 without labels" in text
  saved = json.loads(next(tmp_path.glob("*-pixels-mnist5k-*.json")).read_text())
  assert saved["config"]["target"] == "pixels"
  assert saved["config"]["tokenizer"] == "brightness"
  assert (tmp_path / "table.png").exists()
  table5.main(ablation.Table(config, rows=("vit-layerscale",), labels=20))
  with pytest.raises(ValueError, match=r"the rows are beit, .*; got nothing"):
    table4.main(ablation.Table(config, rows=("nothing",)))
  assert "vit-layerscale" in capsys.readouterr().out


@pytest.mark.slow
def test_other_tables_and_ways(chain, tmp_path, capsys):
  """A probe with new views, from a published file; Tables 9 and 11."""
  root, tuned, _ = chain
  table11.main(weights=str(root / "finetune"), out=str(tmp_path / "t11"))
  assert f"{100 * tuned.top1:.2f}" in (tmp_path / "t11/table.md").read_text()
  with pytest.raises(ValueError, match="--weights, --intermediate or both"):
    table11.main()
  probe = dataclasses.replace(
    PROBES["mnist5k"],
    init=str(root / "pretrain"),
    augment=True,
    features="mean",
    workdir=str(tmp_path / "t9"),
    smoke=True,
  )
  table9.main(dataclasses.replace(probe, fresh=True))
  assert table9.FRESH in (tmp_path / "t9/table.md").read_text()
  scratch = dataclasses.replace(
    FINETUNES["mnist5k"], workdir=str(tmp_path / "scratch"), smoke=True
  )
  assert finetune.train(scratch).n == 500
  assert "top-1" in capsys.readouterr().out
