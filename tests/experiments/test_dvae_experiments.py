"""Discrete autoencoders: recipes; training and tokenizers at tiny size."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models, tokenizers
from experiments.dvae import model, step
from experiments.dvae.batches import random_view
from experiments.dvae.config import CONFIGS, Config
from experiments.dvae.train import reconstruct, train
from jaxgen import data, training
from jaxgen.convert import dalle_dvae
from jaxgen.nn import dvae

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_device):
  """A smoke run, as the command line makes it."""
  workdir = tmp_path_factory.mktemp("dvae")
  config = dataclasses.replace(
    CONFIGS["mnist5k_dalle"],
    halvings=1,
    workdir=str(workdir),
    test_split="test[:20]",
    smoke=True,
  )
  return train(config)


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_the_papers_recipe():
  """Ramesh et al. 2021, App. A.2; networks of the released size."""
  config = CONFIGS["dalle"]
  assert (config.image_size, config.batch_size, config.steps) == (
    256,
    512,
    3_000_000,
  )
  assert (config.beta, config.beta_steps) == (6.6, 5000)
  assert (config.tau_start, config.tau, config.tau_steps) == (
    1.0,
    0.0625,
    150_000,
  )
  assert (config.lr, config.lr_end, config.lr_steps) == (
    1e-4,
    1.25e-6,
    1_200_000,
  )
  assert (config.weight_decay, config.ema_decay) == (1e-4, 0.999)
  assert (config.crop, config.dequantize) == ("random", False)
  assert model.make_networks(config)[:2] == (dvae.Encoder(), dvae.Decoder())


@pytest.mark.parametrize(
  ("name", "count"),
  [("dalle", 53_786_240 + 43_829_766), ("beit_dvae", 20_081_411)],
)
def test_parameter_counts(name, count):
  """Of the originals; 7,953,408 + 7,933,699 + 4,194,304 are BEiT's own."""
  init = lambda key: model.init_params(CONFIGS[name], key)
  params = jax.eval_shape(init, jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_optimizer_is_adamw_under_half_a_cosine():
  """A first step of lr along the sign, and lr wd of the parameter itself."""
  config = dataclasses.replace(CONFIGS["dalle"], lr_steps=2, weight_decay=0.5)
  optimizer = step.make_optimizer(config)
  params, grads = jnp.array([2.0]), jnp.array([-3.0])
  state = optimizer.init(params)
  for lr in (1e-4, (1e-4 + 1.25e-6) / 2, 1.25e-6, 1.25e-6):
    update, state = optimizer.update(grads, state, params)
    np.testing.assert_allclose(update, lr * (1 - 0.5 * 2), atol=1e-9)


def test_a_run_leaves_its_files(run):
  assert [line["step"] for line in lines(run)] == [1, 2, 3, 4, 5, 6]
  for name in ("loss.png", "reconstructions.png"):
    assert (run / name).exists()
  found = json.loads((run / "reconstruction.json").read_text())
  assert found["tokens"] == 20 * 196
  assert 1 <= found["perplexity"] <= 16 * found["used"] + 1e-3
  assert 0 < found["l1"] < 1


def test_what_is_logged(run):
  """The schedules, and the loss: 196 positions to 784 numbers."""
  beta = [0, 3.3, 6.6, 6.6, 6.6, 6.6]
  angles = np.pi * np.arange(5) / 4
  tau = 1 / 16 + (15 / 16) * (1 + np.cos(angles)) / 2
  found = lines(run)
  np.testing.assert_allclose([x["beta"] for x in found], beta, atol=1e-6)
  np.testing.assert_allclose(
    [x["tau"] for x in found], [*tau, 1 / 16], rtol=1e-5
  )
  for line in found:
    want = line["nll"] + line["beta"] * line["kl"] * 196 / 784
    assert line["loss"] == pytest.approx(want, rel=1e-5)
    assert (16 * line["used"]) == int(16 * line["used"])
    assert line["perplexity"] <= 16
  used = [line["used"] for line in found[:4]]
  assert used == sorted(used)


def test_a_workdir_is_a_tokenizer(run):
  """What the networks say with the averaged parameters, row after row."""
  found = tokenizers.load(run)
  assert (found.vocabulary, found.factor, found.channels) == (16, 2, 1)
  source = data.load("mnist5k", "test[:3]")
  x = np.stack([data.to_unit(example["image"]) for example in source])
  tokens = jax.jit(found.encode)(found.params, x)
  assert (tokens.shape, tokens.dtype) == ((3, 196), jnp.int32)
  config, params = models.restore_run(run, Config)
  encoder, decoder, _ = model.make_networks(config)
  mapped = 0.8 * (x + 1) / 2 + 0.1
  logits = encoder.apply({"params": params["encoder"]}, mapped)
  np.testing.assert_array_equal(
    tokens.reshape(3, 14, 14), np.asarray(logits).argmax(-1)
  )
  z = np.eye(16, dtype=np.float32)[np.asarray(tokens).reshape(3, 14, 14)]
  outputs = decoder.apply({"params": params["decoder"]}, z)
  mean = jax.nn.sigmoid(outputs[..., :1])
  want = 2 * np.clip((mean - 0.1) / 0.8, 0, 1) - 1
  images = jax.jit(found.decode)(found.params, tokens)
  np.testing.assert_allclose(images, want, atol=1e-5)


def test_dalles_folder_is_a_tokenizer(tmp_path, monkeypatch):
  torch = pytest.importorskip("torch")
  encoder, decoder = dvae.Encoder(8, 1, 16), dvae.Decoder(8, 1, 8)
  monkeypatch.setattr(dvae, "Encoder", lambda: encoder)
  monkeypatch.setattr(dvae, "Decoder", lambda: decoder)
  x = jnp.zeros((1, 16, 8, 3))
  inputs = {"encoder": x, "decoder": jnp.zeros((1, 1, 1, 16))}
  for name, network in (("encoder", encoder), ("decoder", decoder)):
    shapes = jax.eval_shape(network.init, jax.random.key(0), inputs[name])
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = dalle_dvae.to_original(params["params"])
    tensors = {k: torch.tensor(v) for k, v in state.items()}
    torch.save(tensors, tmp_path / f"{name}.pkl")
  found = tokenizers.load(tmp_path)
  assert (found.vocabulary, found.factor, found.channels) == (16, 8, 3)
  tokens = jax.eval_shape(found.encode, found.params, x)
  assert tokens.shape == (1, 2)


def test_what_is_no_tokenizer_is_one_sentence(run, tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match="is no tokenizer: it has nei"):
    tokenizers.load(tmp_path)
  (tmp_path / "checkpoints").mkdir()
  saved = {"experiment": "ddpm"}
  monkeypatch.setattr(training, "restore_experiment", lambda path: saved)
  with pytest.raises(ValueError, match="run of ddpm: tokenizers are runs of"):
    tokenizers.load(tmp_path)
  monkeypatch.undo()
  with pytest.raises(ValueError, match="which has no process to sample from"):
    models.load(str(run))


class Constant:
  """A tokenizer that knows two tokens: dark and bright images."""

  def encode(self, params, images):
    bright = (images.mean((1, 2, 3)) > 0).astype(jnp.int32)
    return jnp.broadcast_to(bright[:, None], (len(images), 4))

  def decode(self, params, tokens):
    level = tokens[:, 0] * 1.0
    return jnp.broadcast_to(level[:, None, None, None], (len(level), 2, 2, 1))


def test_reconstruction_by_hand():
  """Three images at 255 and one at 0; their errors in [0, 1] are 0 and 1/2."""
  levels = (255, 255, 255, 0)
  source = [{"image": np.full((2, 2, 1), x, np.uint8)} for x in levels]
  constant = Constant()
  tokenizer = tokenizers.Tokenizer(
    (), constant.encode, constant.decode, 8, 1, 1
  )
  found = reconstruct(tokenizer, source, 2, batch_size=3)
  np.testing.assert_allclose(found.l1, 1 / 8)
  np.testing.assert_allclose(found.used, 2 / 8)
  perplexity = 4**0.25 * (4 / 3) ** 0.75
  np.testing.assert_allclose(found.perplexity, perplexity, rtol=1e-6)
  assert (found.tokens, found.shown.shape) == (16, (6, 2, 2, 1))


def test_the_use_of_codes_in_a_window():
  """Of the last two steps: codes 0, 1, then 0, 1, 2, then 2."""
  config = dataclasses.replace(CONFIGS["mnist5k"], num_tokens=4, window=2)
  usage, found = step.init_usage(config), []
  for tokens in ([0, 1], [2, 2], [2, 2]):
    usage = step.update_usage(usage, jnp.array(tokens), 2)
    found.append(step.measure_usage(usage, 2))
  used, perplexity = np.array(found).T
  np.testing.assert_allclose(used, [2 / 4, 3 / 4, 1 / 4])
  # The means' parts: 1/4 and 1/4; 1/8, 1/8, 1/2; 1/16, 1/16, 3/4.
  entropy = [
    -sum(p / sum(ps) * np.log(p / sum(ps)) for p in ps)
    for ps in ((1, 1), (1, 1, 4), (1, 1, 12))
  ]
  np.testing.assert_allclose(perplexity, np.exp(entropy), rtol=1e-5)


def test_a_collapse_is_one_sentence():
  assert model.collapse(256, 3.6, 10_000) == ""
  assert model.collapse(256, 3.5, 10_000) == (
    "the codebook has collapsed: the perplexity of its 256 codes is 3.5, "
    "below 3.55"
  )
  assert model.collapse(256, 2.0, 98) == ""  # of so few tokens


def test_dalles_augmentation():
  """Squares of 9/8 to 12/8 of the size, or of the short side if that is less.

  Of an image that rises from left to right, the slope tells the square's size.
  """
  ramp = np.linspace(0, 240, 192, dtype=np.uint8)
  image = np.broadcast_to(ramp[None, :, None], (192, 192, 3))
  rng = np.random.default_rng(0)
  sizes, mirrored = [], 0
  for _ in range(200):
    view = random_view({"image": image}, rng, 64, True)["image"]
    assert (view.shape, view.dtype) == ((64, 64, 3), np.uint8)
    rise = int(view[0, -1, 0]) - int(view[0, 0, 0])
    mirrored += rise < 0
    sizes.append(240 * 63 / abs(rise))
  assert 71 < min(sizes) < 74
  assert 93 < max(sizes) < 97
  assert 70 < mirrored < 130
  small = {"image": image[:64, :70]}
  view = random_view(small, rng, 64, False)["image"]
  assert view[0, -1, 0] > view[0, 0, 0]
  assert any((image[:64, i : i + 64] == view).all() for i in range(7))
  with pytest.raises(ValueError, match=r"cuts out 65 x 65 pixels, got an im"):
    random_view(small, rng, 65, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist5k", "openmoji64"])
def test_other_configurations_are_trained(name, tmp_path):
  config = dataclasses.replace(
    CONFIGS[name], workdir=str(tmp_path), test_split="test[:20]", smoke=True
  )
  found = lines(train(config))
  positions = {"mnist5k": 49, "openmoji64": 64}[name]
  for line in found:
    want = line["error"] + line["beta"] * line["kl"] * positions
    assert line["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"image_size": 30}, "multiple of f = 8, got 30"),
    ({"window": 0}, "window must be at least 1, got 0"),
    ({"tau": 0.0}, "tau must be positive, got 0.0"),
    ({"num_tokens": 1}, "num_tokens must be at least 2, got 1"),
    ({"network": "beit", "dequantize": True}, "density of network dalle"),
  ],
)
def test_what_cannot_be_trained_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    Config(**changes)
