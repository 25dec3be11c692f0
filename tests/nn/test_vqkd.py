"""BEiT v2's tokenizer, its patch aggregation, and the teachers' sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.masked import patch_aggregation_loss, vq_kd_loss
from jaxgen.nn.beit import BEITS, Beit, PatchAggregationModel
from jaxgen.nn.clip_vision import CLIP_VISIONS, ClipVision
from jaxgen.nn.dino import DINOS
from jaxgen.nn.norm_ema import Codebook, waiting_codebook
from jaxgen.nn.vqkd import (
  IMAGENET_COLOURS,
  NUM_CODES,
  VQKD,
  VQKDS,
  PatchFeatures,
  plain_vit,
  teacher_images,
)

TINY = VQKD(
  PatchFeatures(plain_vit(32, 1, 4, 64, 8), 4),
  PatchFeatures(plain_vit(32, 1, 4, 64, 1), 6),
)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 24, 1))
IMAGES = np.float32(IMAGES)


def shapes(network, size, *args):
  x = jnp.zeros((1, size, size, 3))
  init = lambda key: network.init(key, x, *args)["params"]
  return jax.eval_shape(init, jax.random.key(0))


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameter_counts_of_tokenizers():
  """Counted in microsoft/unilm's beit2, commit 768a3c8.

  Its codebook tensors: the codes twice and their sizes.
  """
  book = waiting_codebook(NUM_CODES, 32)
  p = shapes(VQKDS["3x768x12_clip"], 224, book)
  parts = [
    count(p[part]["backbone"]) + count(p[part]["fc_norm"]) for part in sorted(p)
  ]
  assert parts == [21_440_256, 85_789_440]
  assert count(p) + 2 * book.embedding.size + NUM_CODES == 109_361_696
  one = count(shapes(VQKDS["1x768x12_clip"], 224, book))
  dino = count(shapes(VQKDS["1x768x12_dino"], 224, book))
  assert dino - one == 256 * 769


def test_parameter_count_of_pretraining():
  """Counted in the same code; without two blocks and LayerScale it is BEiT."""
  network = PatchAggregationModel(BEITS["base"])
  p = shapes(network, 224)
  assert count(p) == 106_143_056
  assert count(p) - count(p["aggregation_0"]) * 2 == 91_965_776


@pytest.mark.parametrize(
  ("name", "size", "number"),
  [
    ("vit_b_32", 224, 87_849_216),
    ("vit_b_16", 224, 86_192_640),
    ("vit_l_14", 224, 303_966_208),
    ("vit_l_14_336", 336, 304_293_888),
  ],
)
def test_parameter_counts_of_clip(name, size, number):
  """Counted in openai/CLIP, commit d05afc4, `visual` of each size."""
  assert count(shapes(CLIP_VISIONS[name], size)) == number


@pytest.mark.parametrize(
  ("name", "number"),
  [
    ("vit_s_16", 21_665_664),
    ("vit_s_8", 21_670_272),
    ("vit_b_16", 85_798_656),
    ("vit_b_8", 85_807_872),
  ],
)
def test_parameter_counts_of_dino(name, number):
  """Counted in facebookresearch/dino, commit 7c446df, biases of keys aside."""
  network = DINOS[name]
  keys = network.backbone.num_layers * network.backbone.width
  assert count(shapes(network, 224)) == number - keys


@pytest.fixture(scope="module")
def variables():
  """Random parameters of the tiny tokenizer."""
  book = waiting_codebook(6, 4)
  tree = jax.eval_shape(TINY.init, jax.random.key(0), IMAGES, book)
  rng = np.random.default_rng(0)
  draw = lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32)
  return jax.tree.map(draw, tree)


def test_a_codebook_is_placed_then_moved(variables):
  book, key = waiting_codebook(6, 4), jax.random.key(1)
  apply = jax.jit(TINY.apply, static_argnames="train")
  out = apply(variables, IMAGES, book, train=True, key=key)
  assert out.features.shape == (2, 12, 6)
  assert out.quantized.z_q.shape == (2, 4, 3, 4)
  after = out.codebook
  assert after.started
  # Each of 24 vectors is counted, a hundredth of them in the average.
  np.testing.assert_allclose(after.usage.sum(), 0.24, rtol=1e-5)
  seen = apply(variables, IMAGES, after, train=False)
  np.testing.assert_array_equal(seen.codebook.embedding, after.embedding)
  tokens = jax.jit(lambda v, x, book: TINY.apply(v, x, book, method="tokens"))(
    variables, IMAGES, after
  )
  assert tokens.shape == (2, 12)
  np.testing.assert_array_equal(tokens.reshape(2, 4, 3), seen.quantized.indices)


def test_restarts_need_a_key(variables):
  apply = lambda: TINY.clone(restart=0.5).apply(
    variables, IMAGES, waiting_codebook(6, 4), True
  )
  with pytest.raises(ValueError, match="needs a key in training, got None"):
    jax.eval_shape(apply)


@pytest.mark.slow
def test_restarts(variables):
  network = TINY.clone(restart=0.5)
  e = jnp.eye(4)[jnp.array([0, 1, 2, 3, 3, 3])]
  book = Codebook(e, jnp.zeros(6), jnp.ones((), bool))
  apply = jax.jit(network.apply, static_argnames="train")
  out = apply(variables, IMAGES, book, train=True, key=jax.random.key(0))
  # Of three equal codes the first is chosen: the others begin anew, with the
  # mean of 24 hundredths over six codes.
  np.testing.assert_allclose(out.codebook.usage[4:], 0.04, rtol=1e-5)
  assert not np.allclose(out.codebook.embedding[4:], e[4:])


def test_the_loss_by_hand():
  """Cosines of 1, 0 and -1, whatever the lengths: 1 - cos is 1 in the mean."""
  features = jnp.array([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
  target = jnp.array([[[5.0, 0.0], [2.0, 0.0], [-4.0, -4.0]]])
  loss, parts = vq_kd_loss(features, target, jnp.float32(0.25))
  np.testing.assert_allclose([loss, parts["rec"]], [1.25, 1], rtol=1e-6)
  with pytest.raises(ValueError, match=r"got \(1, 3, 2\) and \(1, 2, 2\)"):
    vq_kd_loss(features, target[:, 1:], jnp.float32(0))


def test_the_loss_of_both_predictions_by_hand():
  """log 4 of uniform logits; of (0, log 3) log 4 / 3 for the second token."""
  uniform = jnp.zeros((1, 3, 4))
  sure = jnp.broadcast_to(jnp.log(jnp.array([1.0, 3, 0, 0])), (1, 3, 4))
  tokens, mask = jnp.array([[1, 1, 0]]), jnp.array([[1, 1, 0]])
  loss, parts = patch_aggregation_loss((uniform, sure), tokens, mask)
  want = [np.log(4), np.log(4 / 3)]
  np.testing.assert_allclose(
    [parts["main"], parts["aggregated"]], want, rtol=1e-6
  )
  np.testing.assert_allclose(loss, sum(want), rtol=1e-6)
  assert (parts["accuracy"], parts["aggregated_accuracy"]) == (0, 1)


@pytest.mark.slow
def test_what_aggregation_sees():
  """Only the class token brings it what the late blocks found.

  Without blocks between, both predictions have the same patches; a late block
  changes the aggregated prediction only by its class token.
  """
  backbone = Beit(8, 32, 2, 4, 64)
  network = PatchAggregationModel(backbone, 16, early_layer=1, extra_layers=1)
  x = jnp.ones((1, 16, 16, 3))
  p = jax.jit(network.init)(jax.random.key(0), x)["params"]
  last = p["backbone"]["block_1"]
  last["gamma_1"] = last["gamma_2"] = jnp.zeros(32)
  p["aggregation_0"] |= {"gamma_1": jnp.zeros(32), "gamma_2": jnp.zeros(32)}
  main, aggregated = network.apply({"params": p}, x)
  np.testing.assert_allclose(main, aggregated, atol=1e-6)


@pytest.mark.slow
def test_initial_weights_of_the_aggregation():
  """The branches' last weights by sqrt(2 depth), counted on from the early."""
  backbone = Beit(8, 64, 3, 4, 256)
  network = PatchAggregationModel(backbone, 16, early_layer=2, extra_layers=2)
  x = jnp.zeros((1, 16, 16, 3))
  p = jax.jit(network.init)(jax.random.key(0), x)["params"]
  cut = 0.02 * 0.5396  # deviation of a normal between -1 and 1
  for k, depth in ((0, 3), (1, 4)):
    kernel = np.asarray(p[f"aggregation_{k}"]["fc2"]["kernel"])
    assert abs(kernel.std() / cut * (2 * depth) ** 0.5 - 1) < 0.03


def test_an_early_layer_that_is_not_there():
  network = PatchAggregationModel(BEITS["base"], early_layer=13)
  with pytest.raises(ValueError, match=r"early_layer in \[1, 12\], got 13"):
    shapes(network, 224)


def test_teachers_see_colours():
  """-1 and 1 are 0 and 1, less the mean by the deviation; beyond is cut."""
  x = jnp.array([-1.5, -1.0, 1.0, 1.01]).reshape(1, 2, 2, 1)
  found = teacher_images(x, IMAGENET_COLOURS)
  mean, std = (np.array(c) for c in IMAGENET_COLOURS)
  np.testing.assert_allclose(found[0, 0], [-mean / std] * 2, rtol=1e-5)
  np.testing.assert_allclose(found[0, 1], [(1 - mean) / std] * 2, rtol=1e-5)


@pytest.mark.parametrize(
  ("change", "shape", "message"),
  [
    ({}, (1, 30, 32, 3), "divisible by 16, got"),
    ({}, (1, 32, 32, 1), r"images \[B, H, W, 3\]"),
    ({"num_heads": 5}, (1, 32, 32, 3), "its 5 heads, got 768"),
  ],
)
def test_what_does_not_fit_clip_is_refused(change, shape, message):
  network = ClipVision(**change)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape))
