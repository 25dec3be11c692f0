"""BEiT-3: the published recipes; scripts at tiny size."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tokenizers
from experiments.beit3 import (
  batches,
  caption,
  model,
  pretrain,
  replica,
  retrieval,
)
from experiments.beit3.config import PRETRAININGS, Pretrain, smoke
from experiments.beit3.recipes import RECIPES
from experiments.beit3.retrieval_config import RETRIEVALS, Retrieval
from experiments.beit3.task_config import CAPTIONS
from experiments.tokenizers import Tokenizer
from jaxgen import data, training
from jaxgen.convert import beit3
from jaxgen.convert.state import write_safetensors
from jaxgen.nn.beit3 import BEIT3S
from jaxgen.nn.beit3_tasks import MaskedDataModel

COMMANDS = json.loads(
  (Path(__file__).parents[1] / "data/beit3_recipes.json").read_text()
)
SPM = str(Path(__file__).parents[1] / "data/small.spm")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c["model"])
def test_recipes_are_the_published_commands(command):
  size = command["model"].split("_")[1]
  recipe = RECIPES[f"{command['task']}_{size}"]
  devices = int(command["nproc_per_node"]) * int(command.get("nnodes", "1"))
  assert recipe.lr == float(command["lr"])
  assert recipe.epochs == int(command["epochs"])
  assert recipe.warmup == int(command["warmup_epochs"])
  assert recipe.batch_size == devices * int(command["batch_size"])
  assert recipe.layer_decay == float(command["layer_decay"])
  assert recipe.drop_path == float(command["drop_path"])
  assert recipe.weight_decay == float(command["weight_decay"])
  assert recipe.image_size == int(command["model"].split("_")[-1])
  assert recipe.max_length == int(command.get("num_max_bpe_tokens", 64))
  assert recipe.b2 == float(command.get("opt_betas", "0.9 0.999").split()[1])
  assert recipe.head_rate == float(command.get("task_head_lr_weight", 1))
  assert recipe.rand_augment == ("randaug" in command)


def test_the_papers_pretraining():
  """Wang et al. 2023, section 2.3 and its appendix: 3 x 2,048 a step."""
  config = PRETRAININGS["giant"]
  assert (3 * config.batch_size, config.steps) == (6144, 1_000_000)
  assert (config.lr, config.warmup, config.weight_decay) == (1e-3, 10_000, 0.05)
  assert (config.b2, config.eps, config.clip_norm) == (0.98, 1e-6, 3.0)
  assert (config.text_share, config.pair_share) == (0.15, 0.5)
  assert abs(config.num_masked / config.grid**2 - 0.4) < 0.002
  for name in ("base", "large", "giant"):
    trunk = model.make_trunk(PRETRAININGS[name])
    fields = {"drop_path": 0.0, "paper_init": BEIT3S[name].paper_init}
    assert trunk.clone(**fields) == BEIT3S[name]
  config = RETRIEVALS["coco_base"]
  assert (config.steps, config.warmup) == (15 * 184, 3 * 184)
  for name in ("base", "large"):
    trunk = model.make_trunk(RETRIEVALS[f"coco_{name}"])
    assert trunk.clone(drop_path=0.0) == BEIT3S[name]


def brightness(params, images):
  """A tokenizer of 8 x 8 pixels whose tokens are their brightness."""
  b, h, w, c = images.shape
  cells = images.reshape(b, h // 8, 8, w // 8, 8, c).mean((2, 4, 5))
  tokens = jnp.clip((cells.reshape(b, -1) + 1) * 8, 0, 15).astype(jnp.int32)
  return tokens + 0 * params["zero"]


BRIGHTNESS = Tokenizer(
  {"zero": jnp.zeros((), jnp.int32)}, brightness, None, 16, 8, 3
)
TINY = dataclasses.replace(smoke(PRETRAININGS["openmoji32"]), tokenizer="any")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
  """Six steps, by the script."""
  path = tmp_path_factory.mktemp("pretrain")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tokenizers, "load", lambda path: BRIGHTNESS)
    pretrain.train(dataclasses.replace(TINY, workdir=str(path)))
  return path


def dual_encoder(config):
  network = retrieval.TASK.network(config)
  return model.init_network(config, network, jax.random.key(0))


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_what_batches_hold():
  """Views, masks of 40% of the patches, of 15% and 50% of the tokens."""
  pairs = batches.Pairs(TINY, "train")
  text = data.beit3_tokenizer(SPM, TINY.max_length)
  stream = batches.pretraining_batches(TINY, pairs, text, 32)
  state = stream.get_state()
  batch = next(stream)
  assert set(batch) == set(pretrain.KEEP)
  assert batch["image_image"].shape == (16, 32, 32, 3)
  np.testing.assert_array_equal(batch["pair_mask"].sum(1), 6)
  real = (batch["pair_tokens"] != 1).sum(1)
  np.testing.assert_array_equal(
    batch["pair_word_mask"].sum(1), np.floor(real / 2 + 0.5)
  )
  few = batch["text_word_mask"].sum(1)
  assert few.max() <= 0.15 * TINY.max_length + 1
  assert (batch["text_tokens"][:, 0] == 0).all()
  assert not np.array_equal(batch["text_tokens"], batch["pair_tokens"])
  stream.set_state(state)
  for name, array in next(stream).items():
    np.testing.assert_array_equal(array, batch[name])


@pytest.mark.parametrize("room", [0.0, 15.0, 3.0])
def test_the_loss_is_that_of_all_logits(room):
  """By hand: of padded batches, logits everywhere, what is masked."""
  config = dataclasses.replace(TINY, room=room)
  text = data.beit3_tokenizer(SPM, config.max_length)
  pairs = batches.Pairs(config, "train")
  batch = next(batches.pretraining_batches(config, pairs, text, 32))
  for kind in ("image", "pair"):
    second = batch.pop(f"{kind}_second")
    batch[f"{kind}_codes"] = brightness({"zero": 0}, second)
  network = MaskedDataModel(model.make_trunk(config), 16)
  x, tokens = batch["pair_image"], batch["pair_tokens"]
  params = jax.jit(network.init)(jax.random.key(0), x, tokens)["params"]
  loss_fn = jax.jit(pretrain.make_loss(config, BRIGHTNESS, groups=2))
  loss, found = loss_fn(params, jax.random.key(1), batch)
  if room == 3:  # longer texts are cut
    assert found["text_cut"] > 0
    assert np.isfinite(loss)
    return
  total = 0.0
  for kind in ("image", "text", "pair"):
    of = lambda name, kind=kind: batch.get(f"{kind}_{name}")
    padding = None if kind == "image" else of("tokens") == 1
    logits = network.apply(
      {"params": params},
      *(of("image"), of("masked"), padding),
      patch_mask=of("mask"),
    )
    wanted = (of("codes"), of("tokens")), (of("mask"), of("word_mask"))
    for scores, right, mask in zip(logits, *wanted, strict=True):
      if scores is not None:
        log_p = np.asarray(jax.nn.log_softmax(scores))
        log_p = np.take_along_axis(log_p, np.asarray(right)[..., None], 2)
        total -= log_p[..., 0][np.asarray(mask)].mean()
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  assert found.get("text_cut", 0) == found.get("pair_cut", 0) == 0


@pytest.mark.slow
def test_pretraining(pretrained):
  found = lines(pretrained)
  assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
  names = ("image_image", "text_text", "pair_image", "pair_text")
  for line in found:
    parts = [line[f"{name}_loss"] for name in names]
    assert line["loss"] == pytest.approx(sum(parts), rel=1e-5)
    # At the start all tokens are as likely.
    assert parts[0] == pytest.approx(np.log(16), rel=0.1)
  assert (pretrained / "tokenizer.json").is_file()


@pytest.mark.slow
def test_pretraining_continues_bit_for_bit(pretrained, tmp_path, monkeypatch):
  shutil.copytree(pretrained, tmp_path / "run")
  shutil.rmtree(tmp_path / "run/checkpoints/6")
  monkeypatch.setattr(tokenizers, "load", lambda path: BRIGHTNESS)
  pretrain.train(dataclasses.replace(TINY, workdir=str(tmp_path / "run")))
  assert lines(tmp_path / "run") == lines(pretrained)


@pytest.mark.slow
def test_pretraining_in_micro_batches(pretrained, tmp_path, monkeypatch):
  """Images count the same; texts' words weigh by their micro-batch."""
  monkeypatch.setattr(tokenizers, "load", lambda path: BRIGHTNESS)
  fields = {"accumulate": 2, "steps": 1, "workdir": str(tmp_path)}
  pretrain.train(dataclasses.replace(TINY, **fields))
  (first,), whole = lines(tmp_path), lines(pretrained)[0]
  for name, rtol in (("image_image", 1e-4), ("text_text", 0.02)):
    assert first[f"{name}_loss"] == pytest.approx(
      whole[f"{name}_loss"], rel=rtol
    )


@pytest.mark.slow
def test_captions_of_a_pretrained_trunk(pretrained, tmp_path):
  """Its experts of pairs, its tokenizer and its weights."""
  config = dataclasses.replace(
    CAPTIONS["openmoji32"], smoke=True, init=str(pretrained)
  )
  old = training.restore_params(pretrained / "checkpoints", "params")["trunk"]
  network = caption.TASK.network(smoke(config))
  start = model.init_network(smoke(config), network, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, start["trunk"], old)
  caption.train(dataclasses.replace(config, workdir=str(tmp_path)))
  found, want = (
    data.load_tokenizer(path / "tokenizer.json")
    for path in (tmp_path, pretrained)
  )
  words = ["grinning cat", "flag: France", "zzz?"]
  np.testing.assert_array_equal(found(words), want(words))


@pytest.mark.slow
def test_retrieval_of_a_pretrained_trunk(pretrained, tmp_path):
  config = RETRIEVALS["openmoji32"]
  config = dataclasses.replace(config, smoke=True, workdir=str(tmp_path))
  config = dataclasses.replace(config, init=str(pretrained))
  retrieval.train(config)
  old = training.restore_params(pretrained / "checkpoints", "params")["trunk"]
  start = dual_encoder(smoke(config))["trunk"]
  assert "expert_pair" not in start["block_1"]
  np.testing.assert_array_equal(start["text_embed"], old["text_embed"])
  (path,) = tmp_path.glob("beit-3-retrieval-*.json")
  result = json.loads(path.read_text())
  assert result["row"] == "pre-trained"
  values = result["values"]
  assert 0 <= values["TR@1"] <= values["TR@5"] <= values["TR@10"] <= 100


@pytest.mark.slow
def test_the_replica(tmp_path):
  """All of its runs, shrunk."""
  text = replica.replicate((0,), str(tmp_path), smoke=True)
  assert "| from scratch |" in text
  assert "| pre-trained |" in text
  assert "helps retrieval (TR@1): openmoji/32: **" in text
  assert (tmp_path / "table.md").read_text() == text


class Search:
  """A dual encoder that knows its images by their brightness."""

  def apply(self, variables, x, padding=None, method=None):
    images = method == "of_images"
    angle = x.mean((1, 2, 3)) if images else x[:, 1] / 100.0
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)


def test_searching(monkeypatch):
  """Three images of brightness 0.1, 0.2 and 0.3, two captions each."""

  class Three:
    def __init__(self, *args):
      pass

    def __len__(self):
      return 3

    def __getitem__(self, i):
      value = round((0.1 * (i + 1) + 1) * 127.5)
      return {"image": np.full((9, 12, 3), value, np.uint8), "texts": []}

    def texts(self):
      return iter([["10", "11"], ["20", "12"], ["30", "33"]])

  monkeypatch.setattr(retrieval, "Pairs", Three)
  monkeypatch.setattr(retrieval, "DualEncoder", lambda trunk: Search())
  monkeypatch.setattr(
    retrieval, "retrieval_recalls", lambda *a: recalls(*a, ranks=(1, 2))
  )
  tokenizer = lambda texts: np.array([[0, int(text)] for text in texts])
  found, images, texts = retrieval.search(
    RETRIEVALS["openmoji32"], {}, tokenizer, 2
  )
  assert (images, texts) == (3, 6)
  # The second image's caption "12" is nearest to the first image.
  assert found["image_recall_1"] == pytest.approx(5 / 6)
  assert found["image_recall_2"] == 1
  assert found["text_recall_1"] == 1


recalls = retrieval.retrieval_recalls


def test_released_weights_at_another_size(tmp_path):
  """A file of 16-pixel images, for images of 32."""
  config = Retrieval(
    "tiny",
    image_size=32,
    init_size=16,
    patch_size=8,
    width=32,
    num_layers=1,
    num_heads=2,
    mlp_width=64,
    vocab_size=70,
    max_length=8,
    init=str(tmp_path / "beit3.safetensors"),
  )
  trunk = model.make_trunk(config)
  x, tokens = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 8), int)
  params = jax.jit(trunk.init)(jax.random.key(1), x, tokens)["params"]
  state = beit3.to_original(params, trunk)
  state["text_head.weight"] = np.zeros((2, 2), np.float32)  # of pre-training
  write_safetensors(config.init, state)
  found = dual_encoder(config)
  assert found["trunk"]["vision_positions"].shape == (2 + 17, 32)
  np.testing.assert_array_equal(
    found["trunk"]["text_embed"], params["text_embed"]
  )
  wrong = dataclasses.replace(config, width=64)
  with pytest.raises(ValueError, match="wrong shapes"):
    dual_encoder(wrong)


def test_mistakes_are_one_sentence(tmp_path):
  with pytest.raises(ValueError, match="needs --tokenizer"):
    pretrain.train(Pretrain(smoke=True))
  with pytest.raises(ValueError, match=r"in \(0, 256\), got 256"):
    Pretrain(num_masked=256)
  with pytest.raises(ValueError, match=r"pair_share must .* got 1.0"):
    Pretrain(pair_share=1.0)
  with pytest.raises(ValueError, match="multiple of patch_size = 16, got 100"):
    Retrieval(image_size=100)
  with pytest.raises(ValueError, match="float32 or bfloat16, got 'half'"):
    Retrieval(dtype="half")
  with pytest.raises(ValueError, match=r"with captions, .* has image, label"):
    batches.captions_of({"image": 0, "label": 0})
  config = dataclasses.replace(TINY, spm=SPM, vocab_size=60)
  with pytest.raises(ValueError, match="70 tokens, the network 60"):
    batches.read_tokenizer(config, tmp_path, None)
  data.beit3_tokenizer(SPM, 8).save(tmp_path / "tokenizer.json")
  with pytest.raises(ValueError, match="have 8 tokens, not 16"):
    batches.read_tokenizer(TINY, tmp_path, None)


def test_captions():
  found = {"captions": {"text": [b"a cat", "two cats"]}}
  assert batches.captions_of(found) == ["a cat", "two cats"]
  assert batches.captions_of({"caption": b"a cat"}) == ["a cat"]
