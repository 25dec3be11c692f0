"""BEiT: recipes against the paper's, and a chain of trainings at tiny size."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tokenizers
from experiments.beit import accuracy, finetune, linear_probe, model, pretrain
from experiments.beit.batches import labelled, stratified
from experiments.beit.config import CONFIGS, Pretrain
from experiments.beit.finetune_config import CONFIGS as FINETUNES
from experiments.beit.finetune_config import Finetune
from experiments.beit.probe_config import CONFIGS as PROBES
from experiments.tokenizers import Tokenizer
from jaxgen import training
from jaxgen.nn.beit import BEITS, Classifier, MaskedImageModel

LEVELS = 8


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
def quick_compilation():
  """Compiling is what takes time here, for eight devices more than for one."""
  make_mesh, one = training.make_mesh, jax.devices()[:1]
  patch = pytest.MonkeyPatch()
  patch.setattr(
    training, "make_mesh", lambda fsdp=1: make_mesh(fsdp=fsdp, devices=one)
  )
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
  patch.undo()


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
  """Workdirs of a pre-training, then a fine-tuning and a probe of it."""
  root = tmp_path_factory.mktemp("beit")
  patch = pytest.MonkeyPatch()
  patch.setattr(tokenizers, "load", lambda path: brightness())
  pretrain.train(
    dataclasses.replace(
      CONFIGS["mnist5k"],
      tokenizer="brightness",
      workdir=str(root / "pretrain"),
      smoke=True,
    )
  )
  patch.undo()
  tuned = dataclasses.replace(
    FINETUNES["mnist5k"],
    init=str(root / "pretrain"),
    labels=20,
    mixup=0.8,
    cutmix=1.0,
    rand_augment=9,
    erasing=0.25,
    ema_decay=0.5,
    test_split="test[:24]",
    workdir=str(root / "finetune"),
    smoke=True,
  )
  probed = dataclasses.replace(
    PROBES["mnist5k"],
    init=str(root / "pretrain"),
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
    FINETUNES["mnist5k"], **tiny(), init=str(root / "pretrain")
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


def tiny():
  return {"width": 32, "num_layers": 2, "num_heads": 2, "mlp_width": 64}


def test_fine_tuning_goes_on_from_fine_tuning(chain):
  """The classifier comes along, unless it has other classes."""
  root, _, _ = chain
  config = dataclasses.replace(
    FINETUNES["mnist5k"], **tiny(), init=str(root / "finetune")
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
  """Class token and mean of patches of all blocks, or the mean alone."""
  root, _, _ = chain
  config = dataclasses.replace(PROBES["mnist5k"], init=str(root / "pretrain"))
  x = np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 1)).astype("f")
  both = linear_probe.Frozen.load(config)
  mean = linear_probe.Frozen.load(dataclasses.replace(config, features="mean"))

  @jax.jit
  def of(params):
    h = both.found.backbone.apply({"params": params}, x)
    return both.features(params, x), mean.features(params, x), h[1]

  told, alone, h = of(both.found.params)
  assert told.shape == (2, 2, 64)
  np.testing.assert_allclose(told[:, 1, :32], h[:, 0], atol=1e-6)
  np.testing.assert_allclose(told[:, 1, 32:], h[:, 1:].mean(1), atol=1e-6)
  np.testing.assert_array_equal(alone, told[..., 32:])
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
    **tiny() | {"init": str(root / "pretrain")} | changes,
  )
  with pytest.raises(ValueError, match=message):
    model.init_classifier(config, jax.random.key(0))


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
    **tiny() | {"num_layers": 1},
    image_size=8,
    num_masked=2,
  )
  images = np.full((2, 8, 8, 1), -1.0, np.float32)
  images[:, :, :4] = 0.5
  mask = np.array([[[True, False], [True, False]]] * 2)
  batch = {"image": images, "second": images, "mask": mask}
  batch["tokenizer"] = brightness().params

  def loss(key, **changes):
    config = dataclasses.replace(tokens, **changes)
    tokenizer = pretrain.load_tokenizer(config)
    params = model.make_mim(config, LEVELS).init(key, images)["params"]
    zero = jax.tree.map(jnp.zeros_like, params["lm_head"])
    loss_fn = pretrain.make_loss(config, tokenizer)
    return loss_fn(params | {"lm_head": zero}, key, batch)

  @jax.jit
  def losses(key):
    return (
      loss(key, target="pixels"),
      loss(key, target="pixels", recover="all"),
      loss(key, tokenizer="brightness"),
      loss(key, tokenizer="brightness", recover="all"),
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tokenizers, "load", lambda path: brightness())
    found = losses(jax.random.key(0))
  values = [float(value) for value, _ in found]
  uniform = np.log(LEVELS)
  assert values == pytest.approx([0.25, (0.25 + 1) / 2, uniform, uniform])
  assert [float(m["masked"]) for _, m in found] == [0.5] * 4
  assert [float(m["most_common"]) for _, m in found[2:]] == [1, 0.5]


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
  batch = {
    "image": jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32),
    "second": jax.ShapeDtypeStruct((8, 112, 112, 3), jnp.float32),
    "mask": jax.ShapeDtypeStruct((8, 14, 14), bool),
    "tokenizer": {"encoder": encoder},
  }
  step = training.make_train_step(
    pretrain.make_loss(config, tokenizer),
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
  assert len(source) == 80  # four times 20 for batches of 64
  seen = [source[i] for i in range(len(source))]
  assert np.bincount([s["label"] for s in seen]).tolist() == [8] * 10
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


def test_small_configurations_agree():
  """Each fits the other's backbone."""
  for name in ("mnist5k", "openmoji64"):
    config = FINETUNES[name]
    assert model.like(config, CONFIGS[name]) == config
    assert PROBES[name].num_classes == config.num_classes
  assert isinstance(CONFIGS["mnist5k"], Pretrain)
