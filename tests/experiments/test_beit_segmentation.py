"""BEiT for segmentation: released recipes, whole images, tiny scripts."""

import dataclasses
import inspect
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import results
from experiments.beit import model as beit_model
from experiments.beit import (
  segment,
  segment_eval,
  segment_model,
  table3,
  table7,
)
from experiments.beit.config import CONFIGS as pretrain_configs
from experiments.beit.config import PLUS
from experiments.beit.segment_config import (
  CONFIGS,
  PUBLISHED,
  Config,
  smoke,
)
from experiments.beit.segment_eval import Look, looks_at
from jaxgen import training
from jaxgen.convert import beit_segmentation
from jaxgen.data import save_png
from jaxgen.data.segmentation import normalize, resize_image
from jaxgen.nn.segmentation import ConvNorm, slide
from jaxgen.nn.setr import ProgressiveSegmenter
from jaxgen.training.layer_decay import layer_decay_adamw, warmed_up_poly

make_mesh = training.make_mesh
DATA = Path(__file__).parents[1] / "data"
RELEASED = json.loads((DATA / "segmentation_configs.json").read_text())
# A pre-training of the smoke run's network and images.
# Digits with the released networks' biases in the place of positions.
PRETRAIN = dataclasses.replace(
  pretrain_configs["mnist5k"],
  **PLUS,
  image_size=16,
  num_masked=4,
  width=16,
  num_layers=1,
  num_heads=2,
  mlp_width=32,
)
MNIST = dataclasses.replace(
  CONFIGS["mnist5k_seg"], **PLUS | {"relative_positions": "per_block"}
)


def on_one_device(**kwargs):
  return make_mesh(**kwargs, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
  """The workdir of a pre-training, and its parameters."""
  network = beit_model.make_mim(PRETRAIN, 8)
  x = jnp.zeros((1, 16, 16, 1))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda p: 0.1 * rng.standard_normal(p.shape).astype(np.float32), shapes
  )
  path = tmp_path_factory.mktemp("pretraining") / "beit-tiny"
  fields = {"experiment": "beit_pretrain", **dataclasses.asdict(PRETRAIN)}
  state = training.init_state(params, training.adam(0.1), jax.random.key(0))
  with training.Checkpoints(path / "checkpoints", fields) as checkpoints:
    checkpoints.restore(state)
    checkpoints.save(state)
  return path, params["backbone"]


@pytest.fixture(scope="module")
def run(pretrained, tmp_path_factory):
  """A smoke run that begins with it, on one device: it compiles sooner."""
  config = dataclasses.replace(
    MNIST,
    init=str(pretrained[0]),
    workdir=str(tmp_path_factory.mktemp("run") / "run"),
    smoke=True,
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(training, "make_mesh", on_one_device)
    return segment.train(config)


@pytest.mark.parametrize("name", RELEASED)
def test_configurations_are_the_released_ones(name):
  config = CONFIGS[name]
  ours = dataclasses.asdict(config)
  for function in (layer_decay_adamw, warmed_up_poly):
    defaults = inspect.signature(function).parameters
    ours |= {
      given: defaults[ours_called].default
      for given, ours_called in (
        ("b1", "b1"),
        ("b2", "b2"),
        ("power", "power"),
        ("final_lr", "final"),
        ("warmup_ratio", "warmup_ratio"),
      )
      if ours_called in defaults
    }
  ours |= {k: list(v) for k, v in ours.items() if isinstance(v, tuple)}
  assert {field: ours[field] for field in RELEASED[name]} == RELEASED[name]
  assert config.decay_steps == config.steps
  assert config.relative_positions == "per_block"
  assert config.mlp_width == 4 * config.width
  assert config.reduce_zero_label
  assert config.flip
  assert config.distort


def test_all_that_was_released_is_there():
  assert set(RELEASED) == set(PUBLISHED)


def test_the_full_network_is_trained():
  """Shapes of the state and of a step's loss, for BEiT-B at crops of 512."""
  config = CONFIGS["base_512"]
  init = lambda key: segment_model.init_state(config, key, key)
  state = jax.eval_shape(init, jax.random.key(0))
  batch = {
    "image": jnp.zeros((1, 512, 512, 3)),
    "segmentation": jnp.zeros((1, 512, 512), jnp.uint8),
  }
  loss_fn = segment_model.make_loss(config, segment_model.make_network(config))
  loss, metrics, stats = jax.eval_shape(
    loss_fn, state.params, jax.random.key(0), batch, state.memory
  )
  assert loss.shape == metrics["accuracy"].shape == ()
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(stats) == shapes(state.memory)
  # The trunk of a classifier at 512 without its head, and what is on it.
  backbone = sum(x.size for x in jax.tree.leaves(state.params["backbone"]))
  head = 768 * 1000 + 1000 + 2 * 768
  assert backbone == 86_997_544 - head


def test_what_is_decayed():
  """Without gradient AdamW leaves p (1 - rate decay^(L + 1 - i) w).

  The class token is decayed, vectors are not.
  """
  config = smoke(dataclasses.replace(MNIST, warmup_steps=0))
  config = dataclasses.replace(config, warmup_steps=0)
  network = segment_model.make_network(config)
  x = jnp.zeros((1, 16, 16, 1))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
  params = jax.tree.map(lambda p: np.ones(p.shape, np.float32), shapes)
  zeros = jax.tree.map(np.zeros_like, params)
  optimizer = segment_model.make_optimizer(config)

  @jax.jit
  def update(params):
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    return optax.apply_updates(params, updates)

  new = update(params)
  step, d = config.lr * config.weight_decay, config.layer_decay
  value = lambda *path: new["backbone"][path[0]][path[1]]
  for leaf, lost in (
    (new["backbone"]["cls_token"], step * d**2),
    (value("patch_embed", "kernel"), step * d**2),
    (value("block_0", "attn")["qkv"], step * d),
    (value("block_0", "relative_bias")["table"], step * d),
    (new["pyramid"]["fpn1_up1"]["kernel"], step),
    (new["decode_head"]["classifier"]["kernel"], step),
    (value("block_0", "gamma_1"), 0),
    (value("block_0", "attn")["q_bias"], 0),
    (new["pyramid"]["fpn1_bn"]["scale"], 0),
  ):
    np.testing.assert_allclose(1 - np.asarray(leaf), lost, atol=1e-7)


def test_batches_of_ade20k(tmp_path):
  """From its folders; the map's 0 is no class, and k + 1 is class k."""
  rng = np.random.default_rng(0)
  for i in range(4):
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    labels = np.full((20, 30), 150, np.uint8)
    labels[:, :9], labels[:, 9:18] = 0, 1
    save_png(tmp_path / f"images/training/{i}.png", image)
    save_png(tmp_path / f"annotations/training/{i}.png", labels)
  config = dataclasses.replace(
    CONFIGS["base_512"],
    dataset=f"ade20k:{tmp_path}",
    crop_size=32,
    stride=16,
    long=128,
    short=32,
    batch_size=4,
  )
  batch = next(segment_model.batches(config))
  assert batch["image"].shape == (4, 32, 32, 3)
  assert set(np.unique(batch["segmentation"])) == {0, 149, 255}
  # ImageNet's statistics, of levels from 0 to 255.
  assert -2.2 < batch["image"].min() < -1.5
  assert 1.5 < batch["image"].max() < 2.7
  record = segment_model.record(config)
  assert record["dataset"] == f"ade20k:{tmp_path.name}"


class Heads(nn.Module):
  """The parts that a loss needs: batch normalisation and two outputs."""

  @nn.compact
  def __call__(self, x, train):
    x = ConvNorm(3, name="conv")(x, train)
    return x, x[:, ::2, ::2]


def test_batch_statistics_are_of_all_devices():
  """On eight devices as on one, and as counted by hand."""
  x = np.random.default_rng(0).standard_normal((8, 4, 4, 2), np.float32)
  x += np.arange(8)[:, None, None, None]
  batch = {"image": x, "segmentation": np.zeros((8, 4, 4), np.uint8)}
  network, config = Heads(), MNIST
  variables = network.init(jax.random.key(0), x[:1], False)
  optimizer = training.adam(0.1)
  found = []
  for count in (1, 8):
    mesh = training.make_mesh(devices=jax.devices()[:count])
    step = training.make_train_step(
      segment_model.make_loss(config, network),
      optimizer,
      training.constant_ema(0.0),
      mesh,
    )
    state = training.init_state(
      variables["params"],
      optimizer,
      jax.random.key(1),
      variables["batch_stats"],
    )
    state = training.shard_state(mesh, state)
    state, _ = step(state, training.shard_batch(mesh, batch))
    found.append(jax.device_get((state.params, state.memory)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found
  )
  kernel = variables["params"]["conv"]["kernel"][0, 0]
  y = (x @ np.asarray(kernel)).reshape(-1, 3)
  stats = found[1][1]["conv"]["bn"]
  np.testing.assert_allclose(stats["mean"], 0.1 * y.mean(0), rtol=1e-4)
  np.testing.assert_allclose(
    stats["var"], 0.9 + 0.1 * y.var(0, ddof=1), rtol=1e-4
  )


def test_how_images_are_looked_at():
  """One size; or six, of which those below a window are a window's."""
  config = CONFIGS["base_640"]
  assert looks_at(config, (480, 640), False) == [Look((640, 853), False, 1.0)]
  assert looks_at(config, (200, 1000), False)[0].size == (512, 2560)
  looks = looks_at(config, (480, 640, 3), True)
  assert [(look.size, look.mirrored) for look in looks[::2]] == [
    ((640, 853), False),  # 0.5, 0.75 and 1
    ((800, 1067), False),
    ((960, 1280), False),
    ((1120, 1493), False),
  ]
  assert [look.mirrored for look in looks] == [False, True] * 4
  weights = [look.weight for look in looks]
  np.testing.assert_allclose(weights, [3 / 12] * 2 + [1 / 12] * 6)


class Stub:
  """A network without variables, half as fine as its images."""

  def apply(self, variables, x):
    edge = jnp.linspace(0, 1, x.shape[2])[None, None, :, None]
    x = (x * (1 + edge))[:, ::2, ::2]
    return (jnp.concatenate([x, 0.1 * x**2, -x], -1),)


def test_windows_are_averaged_and_brought_back(monkeypatch):
  """Against whole arrays: `slide`, a resize of each look, the mean."""
  config = dataclasses.replace(
    smoke(MNIST), num_classes=3, crop_size=16, stride=12, long=64, short=12
  )
  image = np.random.default_rng(0).integers(0, 256, (25, 40, 1), np.uint8)

  def logits(x):
    (y,) = Stub().apply({}, x)
    return jax.image.resize(y, (*x.shape[:3], 3), "bilinear", antialias=False)

  want = np.zeros((25, 40, 3))
  for size, mirrored, weight in looks_at(config, image.shape, True):
    x = resize_image(image, *size)[:, :: -1 if mirrored else 1]
    x = normalize(x, config.mean, config.std)
    y = slide(logits, x[None], config.crop_size, config.stride)
    y = jax.image.resize(y, (1, 25, 40, 3), "bilinear", antialias=False)
    y = np.asarray(jax.nn.softmax(y))[0]
    want += weight * y[:, :: -1 if mirrored else 1]
  assert want.sum() == pytest.approx(25 * 40, rel=1e-5)
  weights = segment_model.Weights(config, Stub(), {})
  monkeypatch.setattr(training, "make_mesh", on_one_device)
  segmenter = segment_eval.ImageSegmenter(weights, window_batch=3)
  sizes = [segmenter._batch_size(count) for count in (1, 2, 3, 9)]
  assert sizes == [1, 2, 2, 2]
  found = segmenter(image, True)
  near = np.sort(want)[..., -1] - np.sort(want)[..., -2] < 1e-4
  np.testing.assert_array_equal(found[~near], want.argmax(-1)[~near])
  assert near.mean() < 0.02
  assert len(np.unique(found)) == 3


def test_a_very_long_image_is_filled_up():
  """Fitted into 64 x 16 it is lower than a window."""
  config = dataclasses.replace(
    smoke(MNIST), num_classes=3, crop_size=16, stride=12, long=64, short=16
  )
  segmentation = segment_eval.ImageSegmenter(
    segment_model.Weights(config, Stub(), {})
  )
  image = np.full((20, 200, 1), 200, np.uint8)
  assert (segmentation(image) == 0).all()


def test_a_run_leaves_its_files(run):
  text = (run / "metrics.jsonl").read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  for row in rows:
    total = row["main"] + MNIST.auxiliary_weight * row["auxiliary"]
    assert row["loss"] == pytest.approx(total, rel=1e-5)
  scores = json.loads((run / "segmentations.json").read_text())
  assert 0 <= scores["mean_iou"] <= scores["mean_accuracy"] <= 1
  assert scores["protocol"].startswith(
    "4 scenes of mnist5k:test; windows of 16"
  )
  assert scores["protocol"].endswith("begun with beit-tiny")
  assert (run / "segmentations.png").exists()
  weights = segment_model.load(str(run))
  # Batch statistics have moved, and are read with the weights.
  assert weights.variables["batch_stats"]["pyramid"]["fpn1_bn"]["mean"].any()


@pytest.mark.slow
def test_the_papers_head_is_trained(tmp_path):
  config = dataclasses.replace(
    MNIST, head="setr_pup", workdir=str(tmp_path), smoke=True
  )
  segment.train(config)
  text = (tmp_path / "metrics.jsonl").read_text()
  for row in map(json.loads, text.splitlines()):
    total = row["main"] + MNIST.auxiliary_weight * row["auxiliary"]
    assert row["loss"] == pytest.approx(total, rel=1e-5)
  scores = json.loads((tmp_path / "segmentations.json").read_text())
  assert scores["protocol"].endswith("head SETR-PUP")
  network = segment_model.load(str(tmp_path)).network
  assert isinstance(network, ProgressiveSegmenter)


@pytest.mark.slow
def test_eight_devices_train_as_one(pretrained, run, tmp_path):
  """The same losses, dropout included."""
  config = dataclasses.replace(
    MNIST, init=str(pretrained[0]), workdir=str(tmp_path), smoke=True
  )
  lines = lambda path: (path / "metrics.jsonl").read_text().splitlines()
  found, want = (
    [json.loads(line) for line in lines(path)]
    for path in (segment.train(config), run)
  )
  for name in ("loss", "main", "auxiliary", "grad_norm"):
    np.testing.assert_allclose(
      *([row[name] for row in rows] for rows in (found, want)), rtol=2e-3
    )


def test_it_begins_with_the_pretrained_backbone(pretrained):
  """A block has a copy of the shared table; the mask token is gone."""
  path, old = pretrained
  config = smoke(dataclasses.replace(MNIST, init=str(path)))
  backbone = segment_model.make_network(config).backbone
  params = segment_model.pretrained_backbone(config, backbone)
  assert "mask_token" not in params
  assert "relative_bias" not in params
  block = params["block_0"]
  table = old["relative_bias"]["table"]
  np.testing.assert_array_equal(block["relative_bias"]["table"], table)
  qkv = old["block_0"]["attn"]["qkv"]
  np.testing.assert_array_equal(block["attn"]["qkv"], qkv)
  colour = dataclasses.replace(config, image_channels=3, mean=(0.0,) * 3,
                               std=(1.0,) * 3)  # fmt: skip
  with pytest.raises(ValueError, match="patch_embed/kernel is"):
    segment_model.pretrained_backbone(colour, backbone)
  wide = backbone.clone(width=32)
  with pytest.raises(ValueError, match="backbones of one width"):
    segment_model.pretrained_backbone(config, wide)


def test_published_files_are_read(tmp_path, monkeypatch):
  torch = pytest.importorskip("torch")
  config = dataclasses.replace(smoke(CONFIGS["base_512"]), num_classes=5)
  network = segment_model.make_network(config)
  x = jnp.zeros((1, config.crop_size, config.crop_size, 3))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda p: rng.standard_normal(p.shape).astype(np.float32), shapes
  )
  state = beit_segmentation.to_original(variables)
  tensors = {k: torch.from_numpy(np.array(x)) for k, x in state.items()}
  torch.save({"state_dict": tensors}, tmp_path / "tiny.pth")
  monkeypatch.setitem(segment_model.CONFIGS, "tiny", config)
  found = segment_model.load(f"tiny:{tmp_path / 'tiny.pth'}")
  jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
  assert found.network == network
  with pytest.raises(FileNotFoundError, match="one of base_512_mim, base_512"):
    segment_model.load(str(tmp_path / "none"))
  with pytest.raises(FileNotFoundError):
    segment_model.load("base_640:none.pth")
  with pytest.raises(FileNotFoundError, match="no weights of plain_base_512"):
    segment_model.load("plain_base_512:none.pth")


@pytest.mark.slow
def test_tables(run, tmp_path, capsys):
  """The smoke run in both; of two scenes."""
  table7.main([str(run)], multi=True, n=2, out=str(tmp_path / "7"))
  printed = capsys.readouterr().out
  assert "| BEiT-L | 56.7 | 57.0 |" in printed
  table3.main([str(run)], n=2, out=str(tmp_path / "3"))
  printed = capsys.readouterr().out
  assert "| BEiT + intermediate fine-tuning | 47.7 |" in printed
  for number, row in (("7", "BEiT-B"), ("3", "BEiT")):
    (path,) = (tmp_path / number).glob("*.json")
    result = results.Result(**json.loads(path.read_text()))
    assert result.row == row
    assert 0 <= result.values[table7.SS] <= 100
    assert (table7.MS in result.ours) == (number == "7")
    assert result.config["init"] == "beit-tiny"
  assert table3.row_name(MNIST) == table3.SCRATCH
  fine = dataclasses.replace(
    MNIST, init="beit_base_patch16_224_pt22k_ft22k.pth"
  )
  assert table3.row_name(fine) == table3.INTERMEDIATE
  gone = dataclasses.replace(MNIST, init=str(tmp_path / "gone"))
  with pytest.raises(FileNotFoundError, match="is not there any more"):
    table3.row_name(gone)
  assert table7.row_name(CONFIGS["large_640"]) == "BEiT-L"


def test_a_picture_of_labels():
  image = np.zeros((4, 5, 1), np.uint8)
  labels = np.full((4, 5), 255, np.uint8)
  labels[0, 0] = 3
  drawn = segment.grid([(image, labels, np.zeros((4, 5), int))] * 2)
  assert drawn.shape == (3 * 6, 2 * 7, 3)
  assert (drawn[:4, :5] == 0).all()
  assert (drawn[6, 0] == segment.colours(np.array([3]))[0]).all()
  assert (drawn[6, 1] == 255).all()
  assert len(np.unique(segment.colours(np.arange(150)), axis=0)) > 140


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"steps": 200_000}, "must be at least steps = 200000"),
    ({"crop_size": 500}, "multiple of two patches of 16, got 500"),
    ({"stride": 600}, "windows of 512 leave gaps at stride = 600"),
    ({"levels": (3, 5, 7, 12)}, r"levels must lie in \[0, 12\)"),
    ({"mean": (1.0,)}, r"need 3 numbers, got \(1, 3\)"),
    ({"lr": 0.0}, "lr must be positive"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
  ],
)
def test_what_cannot_be_trained(fields, message):
  with pytest.raises(ValueError, match=message):
    Config(**fields)
