"""BEiT-3 against torchscale, microsoft/unilm's code and timm."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from seeded_weights import seeded_state

from jaxgen.convert import beit3
from jaxgen.masked import (
  beam_search,
  caption_loss,
  contrastive_loss,
  write_captions,
)
from jaxgen.nn.beit3 import Beit3
from jaxgen.nn.beit3_tasks import (
  ImageBackbone,
  ImageClassifier,
  QuestionAnswering,
  Retrieval,
  VisualReasoning,
)
from jaxgen.nn.captioner import Captioner, caption_mask
from jaxgen.training.layer_decay import decayed, rate_scales

STORED = np.load(Path(__file__).parents[1] / "data/beit3.npz")
TRUNK = Beit3(8, 32, 2, 4, 64, 40, 20)
BARE = TRUNK.clone(output_norm=False)
NETWORKS = {
  "trunk": TRUNK,
  "classifier": ImageClassifier(BARE, 5),
  "retrieval": Retrieval(TRUNK),
  "answers": QuestionAnswering(BARE, 7),
  "reasoning": VisualReasoning(TRUNK),
  "captioner": Captioner(TRUNK),
}
IMAGES, OTHERS = STORED["images"][:2], STORED["images"][2:]
TOKENS, PADDING = STORED["tokens"], STORED["padding"]
MARKS = {"start": 0, "pad": 1, "end": 2}


def original_state(name):
  shapes = [tuple(s[s > 0].tolist()) for s in STORED[f"{name}_shapes"]]
  names = STORED[f"{name}_names"].tolist()
  state = seeded_state(dict(zip(names, shapes, strict=True)), 0)
  return {key: np.asarray(tensor) for key, tensor in state.items()}


@functools.cache
def params_of(name):
  return beit3.from_original(original_state(name), NETWORKS[name], 32)


def close(found, want):
  error = np.linalg.norm(found - want) / np.linalg.norm(want)
  assert error < 1e-5, error


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_of_the_files(name):
  state = original_state(name)
  back = beit3.to_original(params_of(name), NETWORKS[name])
  if name == "classifier":  # has the text's half, and uses the image's
    state = {k: v for k, v in state.items() if ".B." not in k}
    del state["beit3.text_embed.weight"]
  assert back.keys() == state.keys()
  for key, tensor in state.items():
    np.testing.assert_array_equal(back[key], tensor, err_msg=key)


# What is left out of the default run is in the tasks' tests, too.
SLOW = [
  pytest.param(kind, marks=pytest.mark.slow)
  for kind in ("vision", "text", "caption")
]


@pytest.mark.parametrize("kind", ["pair", *SLOW])
def test_trunk(kind):
  """Images, padded texts, pairs, and pairs with a caption's attention."""
  images = None if kind == "text" else IMAGES
  text = (None, None) if kind == "vision" else (TOKENS, PADDING)
  options = {}
  if kind in ("vision", "pair"):
    options["patch_mask"] = STORED["patches"]
  if kind == "caption":
    options["attention_mask"] = caption_mask(17, 6)
  apply = jax.jit(lambda p: TRUNK.apply(p, images, *text, **options))
  encoded = apply({"params": params_of("trunk")})
  found = np.concatenate([encoded.image, encoded.text], 1)
  close(found, STORED[f"trunk_{kind}"])


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "trunk"])
def test_tasks(name):
  network = NETWORKS[name]
  inputs = {
    "classifier": (IMAGES,),
    "reasoning": (IMAGES, OTHERS, TOKENS, PADDING),
  }.get(name, (IMAGES, TOKENS, PADDING))
  found = jax.jit(network.apply)({"params": params_of(name)}, *inputs)
  if name == "retrieval":
    loss, _ = contrastive_loss(*found)
    np.testing.assert_allclose(loss, STORED["retrieval_loss"], rtol=1e-5)
    found = np.stack(found[:2])
  close(found, STORED[name])
  if name == "classifier":  # as timm's vision transformer has it
    close(found, STORED["timm_classifier"])


def test_features():
  """The original's classes, from the last block's by hand."""
  params = params_of("classifier")
  backbone = ImageBackbone(BARE)
  trunk = {"params": {"trunk": params["trunk"]}}
  features = jax.jit(backbone.apply)(trunk, IMAGES)[-1]
  h = np.asarray(features, np.float64)[:, 1:].mean(1)
  h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
  norm, head = params["fc_norm"], params["head"]
  h = h * norm["scale"][None] + norm["bias"][None]
  close(h @ head["kernel"] + head["bias"][None], STORED["classifier"])


def test_positions_of_another_size():
  params = params_of("classifier")
  found = beit3.resize(params, BARE, 32, 48)["trunk"]["vision_positions"]
  np.testing.assert_allclose(found, STORED["positions_48"], atol=1e-5)
  np.testing.assert_array_equal(
    found[:3], params["trunk"]["vision_positions"][:3]
  )


def test_rates_and_weight_decay_of_parameters():
  """decay^(L + 1 - i), and what is not decayed, as the released code has it."""
  params = params_of("retrieval")
  names = STORED["retrieval_names"].tolist()
  for tree, stored in (
    (rate_scales(params, 2, 0.5), 0.5 ** (3 - STORED["retrieval_layers"])),
    (decayed(params), STORED["retrieval_decayed"]),
  ):
    values = jax.tree.map(lambda p, v: np.full(p.shape, v), params, tree)
    state = beit3.to_original(values, NETWORKS["retrieval"])
    for name, value in zip(names, stored, strict=True):
      assert np.all(state[name] == value), name


def words_of(decoded):
  """The original's text: its end is one place late, after a mask token."""
  decoded = np.asarray(decoded)
  ends = (decoded == 39).argmax(1)
  place = np.arange(decoded.shape[1])
  kept = np.where(place < ends[:, None], decoded, MARKS["pad"])
  kept[np.arange(len(ends)), ends] = MARKS["end"]
  return kept


def test_captions():
  network, params = NETWORKS["captioner"], params_of("captioner")
  write = jax.jit(
    lambda images: write_captions(
      network, params, images, **MARKS, mask=39, max_length=8
    )
  )
  tokens, _ = write(STORED["images"])
  np.testing.assert_array_equal(tokens, words_of(STORED["decoded"]))


def test_beam_search():
  """24 tables of the next word's logits given the last one."""
  tables = STORED["bigrams"].astype(np.float32)
  rows = np.arange(24).repeat(3)
  tokens, _ = beam_search(
    lambda memory, words, _: (jax.numpy.asarray(tables)[rows, words], memory),
    (),
    24,
    **MARKS,
    max_length=8,
  )
  np.testing.assert_array_equal(tokens, words_of(STORED["bigrams_decoded"]))


@pytest.mark.parametrize(("drop_worst", "place"), [(0.0, 0), (0.2, 1)])
def test_caption_loss(drop_worst, place):
  logits, target = STORED["caption_logits"], STORED["caption_target"]
  loss, _ = caption_loss(
    logits[None], target[None], np.ones((1, 17)), drop_worst=drop_worst
  )
  np.testing.assert_allclose(loss, STORED["caption_loss"][place], rtol=1e-5)
