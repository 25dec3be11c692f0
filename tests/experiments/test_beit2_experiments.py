"""BEiT v2: recipes; its tokenizer, trained and used at tiny size."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments import results, tokenizers
from experiments.beit import model as beit
from experiments.beit.pretrain import train as train_beit
from experiments.beit2 import (
  codebooks,
  finetune,
  pretrain,
  table1,
  teachers,
  train_vqkd,
  vqkd_model,
)
from experiments.beit2.config import CONFIGS, Tokenizer, smoke
from experiments.beit2.train_vqkd import random_view, train
from jaxgen import data, training
from jaxgen.metrics import features
from jaxgen.nn import norm_ema
from jaxgen.nn.beit import BEITS, PatchAggregationModel
from jaxgen.nn.norm_ema import Codebook
from jaxgen.nn.vqkd import VQKDS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A smoke run, with a checkpoint at the end alone."""
  workdir = tmp_path_factory.mktemp("vqkd")
  config = dataclasses.replace(
    smoke(CONFIGS["mnist5k"]),
    workdir=str(workdir),
    test_split="test[:20]",
    restart=0.0,  # which would add to the usage
    save_every=6,
  )
  return train(config)


def lines(workdir, name="metrics.jsonl"):
  text = (workdir / name).read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
  ("name", "layers", "dim"),
  [("base_3_clip", 3, 512), ("base_1_clip", 1, 512), ("base_1_dino", 1, 768)],
)
def test_the_released_recipe(name, layers, dim):
  """The command in TOKENIZER.md, and the defaults of run_vqkd_training.py."""
  config = CONFIGS[name]
  assert (config.decoder_layers, config.teacher_dim) == (layers, dim)
  epoch = 1_281_167 // 512
  assert (config.steps, config.warmup) == (100 * epoch, 10 * epoch)
  assert (config.lr, config.min_lr, config.b2) == (2e-4, 1e-5, 0.99)
  assert (config.weight_decay, config.clip_norm) == (1e-4, None)
  assert (config.batch_size, config.decay, config.restart) == (512, 0.99, 0)
  assert (config.num_codes, config.code_dim, config.kmeans) == (8192, 32, True)
  assert (config.crop_area, config.flip, config.crop_pct) == (0.08, True, 0.875)
  assert config.eval_every == epoch
  released = f"{layers}x768x12_{name.rsplit('_')[-1]}"
  assert vqkd_model.make_network(config) == VQKDS[released]
  assert dataclasses.replace(CONFIGS["base_3_clip"]) == Tokenizer()


def test_a_run_leaves_its_files(run):
  found = lines(run)
  assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
  for line in found:
    assert line["loss"] == pytest.approx(line["rec"] + line["quant"], rel=1e-5)
    assert 0 < line["rec"] < 2
    assert 1 / 16 <= line["used"] <= 1
    assert 1 <= line["perplexity"] <= 16 * line["used"] + 1e-3
  assert (run / "loss.png").exists()
  values = json.loads((run / "evaluation.json").read_text())
  assert values["tokens"] == 20 * 49
  assert values["unused"] == round(16 * (1 - values["used"]))
  # Neither the teacher nor a second copy of the codes is stored.
  params = training.restore_params(run / "checkpoints", "params")
  assert set(params) == {"encoder", "decoder"}
  _, _, codebook = vqkd_model.restore(run)
  assert codebook.started
  np.testing.assert_allclose(
    np.linalg.norm(codebook.embedding, axis=-1), 1, rtol=1e-5
  )
  # Six batches of 8 x 49 tokens, by the moving average.
  total = 8 * 49 * (1 - 0.99**6)
  np.testing.assert_allclose(codebook.usage.sum(), total, rtol=1e-4)


def test_evaluations_are_of_the_test_split(run):
  """Over eight devices as by hand on one; a batch's filling does not count."""
  config, params, codebook = vqkd_model.restore(run)
  found = lines(run, "evaluations.jsonl")
  assert [line["step"] for line in found] == [3, 6]
  end = json.loads((run / "evaluation.json").read_text())
  assert found[-1] == {"step": 6, **end}
  source = data.load("mnist5k", "test[:20]")
  x = next(data.eval_batches(source, 20, 28))["image"]
  teacher = train_vqkd.load_teacher(config)
  network = vqkd_model.make_network(config)

  @jax.jit
  def of(params, frozen, x):
    out = network.apply({"params": params}, x, codebook)
    pair = out.features, teacher.features(frozen, x)
    return out.quantized.indices, *map(norm_ema.unit, pair)

  tokens, predicted, wanted = map(np.asarray, of(params, teacher.params, x))
  counts = np.bincount(tokens.ravel(), minlength=16)
  p = counts[counts > 0] / (20 * 49)
  assert end["unused"] == (counts == 0).sum()
  assert end["used"] == pytest.approx(len(p) / 16)
  perplexity = np.exp(-(p * np.log(p)).sum())
  assert end["perplexity"] == pytest.approx(perplexity, rel=1e-5)
  rec = 1 - (predicted * wanted).sum(-1).mean()
  assert end["rec"] == pytest.approx(rec, rel=1e-4)


def test_a_collapse_is_said_in_one_sentence():
  config = dataclasses.replace(CONFIGS["mnist5k"], num_codes=100)
  values = {"unused": 50, "tokens": 1000, "perplexity": 40.0}
  assert train_vqkd.collapsed(config, values) == ""
  said = train_vqkd.collapsed(config, values | {"unused": 51})
  assert said.startswith("the codebook has collapsed: 51 of its 100 codes do")
  # Forty tokens can use no more codes; of two, one is nearly never used.
  few = {"unused": 70, "tokens": 40, "perplexity": 20.0}
  assert train_vqkd.collapsed(config, few) == ""
  said = train_vqkd.collapsed(config, values | {"perplexity": 1.01})
  assert "perplexity of its 100 codes is 1.01" in said


def test_a_trained_tokenizer_is_loaded(run):
  found = tokenizers.load(run)
  assert (found.vocabulary, found.factor, found.channels) == (16, 4, 1)
  assert found.decode is None
  x = next(data.eval_batches(data.load("mnist5k", "test[:8]"), 8, 28))["image"]
  tokens = jax.jit(found.encode)(found.params, x)
  assert tokens.shape == (8, 49)
  assert tokens.dtype == jnp.int32
  config, params, codebook = vqkd_model.restore(run)
  network = vqkd_model.make_network(config)
  encode = lambda p, x: network.apply({"params": p}, x, method="encode")
  z = jax.jit(encode)(params, x)
  u = np.asarray(norm_ema.unit(z)).reshape(8, 49, 1, -1)
  nearest = np.square(u - np.asarray(codebook.embedding)).sum(-1).argmin(-1)
  np.testing.assert_array_equal(tokens, nearest)


@pytest.mark.parametrize(
  ("name", "layers", "epochs", "b2", "drop_path"),
  [
    ("base_300ep", (12, 9), 300, 0.98, 0.0),
    ("base_1600ep", (12, 9), 1600, 0.999, 0.1),
    ("large_300ep", (24, 21), 300, 0.98, 0.0),
    ("large_1600ep", (24, 21), 1600, 0.999, 0.1),
  ],
)
def test_the_released_pretraining(name, layers, epochs, b2, drop_path):
  """The commands in PRETRAINING.md."""
  config = pretrain.CONFIGS[name]
  assert (config.num_layers, config.early_layer) == layers
  assert (config.steps, config.warmup) == (epochs * 625, 6250)
  assert (config.b2, config.drop_path) == (b2, drop_path)
  assert (config.lr, config.clip_norm, config.weight_decay) == (1.5e-3, 3, 0.05)
  assert (config.crop_area, config.second_filter) == (0.2, "bicubic")
  assert (config.num_masked, config.exact_mask) == (75, True)
  assert (config.normalize, config.batch_size) == ("imagenet", 2048)
  network = beit.make_mim(config, 8192)
  size = "base" if layers[0] == 12 else "large"
  wanted = BEITS[size].clone(drop_path=drop_path)
  assert network == PatchAggregationModel(wanted, 8192, layers[1])


@pytest.mark.parametrize(
  ("name", "lr", "epochs", "layer_decay", "drop_path", "mixup"),
  [
    ("base_300ep", 5e-4, (100, 20), 0.65, 0.1, 0.8),
    ("base_1600ep", 5e-4, (100, 20), 0.6, 0.2, 0.8),
    ("large_300ep", 5e-4, (50, 5), 0.8, 0.2, 0.8),
    ("large_1600ep", 2e-4, (50, 5), 0.8, 0.2, 0.8),
    ("base_21kto1k", 5e-5, (30, 20), 0.75, 0.1, 0.0),
    ("large_21kto1k", 7e-5, (20, 5), 0.8, 0.25, 0.0),
  ],
)
def test_the_released_fine_tuning(
  name, lr, epochs, layer_decay, drop_path, mixup
):
  """The commands in get_started_for_image_classification.md."""
  config = finetune.CONFIGS[name]
  assert (config.lr, config.layer_decay) == (lr, layer_decay)
  assert (config.drop_path, config.mixup) == (drop_path, mixup)
  steps = 1_281_167 // 1024
  assert config.steps == epochs[0] * steps
  assert config.warmup == epochs[1] * steps
  assert (config.weight_decay, config.normalize) == (0.05, "imagenet")


@pytest.mark.slow
def test_pretraining_with_a_trained_tokenizer(run, tmp_path):
  config = dataclasses.replace(
    pretrain.CONFIGS["mnist5k"],
    tokenizer=str(run),
    workdir=str(tmp_path / "mim"),
    smoke=True,
  )
  workdir = train_beit(config)
  for line in lines(workdir):
    both = line["main"] + line["aggregated"]
    assert line["loss"] == pytest.approx(both, rel=1e-5)
  # At first both predictions are uniform over 16 tokens.
  first = lines(workdir)[0]["loss"]
  assert first == pytest.approx(2 * np.log(16), rel=0.02)
  found = beit.load(str(workdir))
  assert set(found.params) >= {"block_0", "relative_bias", "mask_token"}


def test_the_step_of_the_released_size():
  """Its codebook is in the memory; the batch is split over the devices."""
  config = dataclasses.replace(CONFIGS["base_1_clip"], batch_size=16)
  teacher = teachers.Teacher(
    jnp.ones(()), lambda p, x: p * jnp.ones((len(x), 196, 512))
  )
  mesh = training.make_mesh()
  step = train_vqkd.make_step(config, teacher, mesh)
  key = jax.random.key(0)
  init = lambda key: vqkd_model.init_state(config, key, key)
  state = jax.eval_shape(init, key)
  x = jax.ShapeDtypeStruct((16, 224, 224, 3), jnp.float32)
  new, metrics = jax.eval_shape(lambda s, x: step(s, {"image": x}), state, x)
  assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
  assert new.memory.embedding.shape == (8192, 32)
  assert {"rec", "quant", "used", "perplexity", "collapsed"} < set(metrics)
  places = training.state_sharding(mesh, state.memory)
  assert places.embedding.spec == PartitionSpec()


def test_a_table_of_codebooks(run, tmp_path, capsys):
  codebooks.main([str(run)], out=str(tmp_path))
  values = json.loads((run / "evaluation.json").read_text())
  printed = capsys.readouterr().out
  assert f"| 1 block, CLIP | 100% |  |  | {values['used']:.1%} |" in printed
  (path,) = tmp_path.glob("*.json")
  saved = results.Result(**json.loads(path.read_text()))
  assert saved.values["codes used"] == values["used"]
  assert saved.config["teacher"] == "mnist5k-cnn"
  rows = {name: codebooks.row_name(CONFIGS[name]) for name in CONFIGS}
  assert rows["base_3_clip"] == rows["mnist5k_3"] == "3 blocks, CLIP"
  dino = dataclasses.replace(CONFIGS["base_1_dino"], teacher="dino:file.pth")
  assert codebooks.row_name(dino) == "1 block, DINO"
  with pytest.raises(ValueError, match="no row 2 blocks, CLIP for mnist5k"):
    codebooks.row_name(
      dataclasses.replace(CONFIGS["mnist5k"], decoder_layers=2)
    )


def test_rows_of_released_files():
  end = "patch16_224_pt1k_ft21kto1k.pth"
  assert table1.row_name(f"beitv2_large_{end}") == "BEiT v2-L, then 21k labels"
  assert (
    table1.row_name("beitv2_base_patch16_224_pt1k_300e_ft1k.pth")
    == "BEiT v2-B, 300 epochs"
  )
  with pytest.raises(ValueError, match="no row for beitv2_base_x"):
    table1.row_name("beitv2_base_x.pth")
  assert {row.command.rsplit("-")[-1] for row in table1.ROWS} < set(
    finetune.CONFIGS
  )


def test_recent_usage_by_hand():
  """Used in every batch; once, 100 batches ago; once, 200 ago; never."""
  usage = jnp.array([1.0, 0.01 * 0.99**99, 0.01 * 0.99**200, 0.0])
  book = Codebook(jnp.eye(4), usage, jnp.ones((), bool))
  used, perplexity = vqkd_model.recent_usage(book, 0.99)
  p = np.asarray(usage[:3] / usage.sum())
  want = np.exp(-(p * np.log(p)).sum())
  np.testing.assert_allclose([used, perplexity], [0.5, want], rtol=1e-5)


def test_the_shipped_teacher():
  """The mean of its map is what metrics take of the same network."""
  teacher = teachers.load("mnist5k-cnn", 28)
  images = data.load("mnist5k", "test[:4]")
  x = np.stack([images[i]["image"] for i in range(4)])
  found = teacher.features(teacher.params, jnp.asarray(data.to_unit(x)))
  assert found.shape == (4, 49, 128)
  want = features.small("mnist5k-cnn").apply(jnp.asarray(x)).pool
  np.testing.assert_allclose(jax.nn.relu(found).mean(1), want, atol=1e-4)
  with pytest.raises(ValueError, match=r"49 features of 128 .* 49 .* = 512"):
    teachers.check(teacher, jnp.zeros((1, 28, 28, 1)), 49, 512)
  with pytest.raises(ValueError, match="mnist5k-cnn, openmoji32-cnn, got ''"):
    teachers.load("", 28)
  with pytest.raises(FileNotFoundError, match="no checkpoint file absent"):
    teachers.load("clip:absent.pt", 224)


def test_views():
  """A crop of a constant image is constant; flips are even."""
  example = {"image": np.full((40, 30, 3), 7, np.uint8)}
  rng = np.random.default_rng(0)
  view = random_view(example, rng, 16, 0.08, True)
  assert view["image"].shape == (16, 16, 3)
  assert (view["image"] == 7).all()
  ramp = {"image": np.arange(28, dtype=np.uint8)[None, :, None].repeat(28, 0)}
  views = [random_view(ramp, rng, 28, 0.9, True)["image"] for _ in range(200)]
  falling = sum(v[0, 0, 0] > v[0, -1, 0] for v in views)
  assert 70 < falling < 130
  same = random_view(ramp, rng, 28, 0.9, False)["image"]
  assert same[0, 0, 0] < same[0, -1, 0]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"patch_size": 15}, "multiple of patch_size = 15, got 224"),
    ({"decay": 1.0}, r"decay must lie in \(0, 1\), got 1.0"),
    ({"num_codes": 1}, "num_codes must be at least 2, got 1"),
    ({"decay_steps": 5}, "at least steps = 250200"),
    ({"code_dim": 0}, "code_dim must be at least 1, got 0"),
    ({"lr": 0.0}, "lr must be positive, got 0.0"),
  ],
)
def test_what_cannot_be_trained(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIGS["base_3_clip"], **change)
