"""Texts without padding: places by numpy's indexing, results as padded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.beit3 import Beit3
from jaxgen.nn.beit3_tasks import MaskedDataModel
from jaxgen.nn.packing import pack, pack_texts, unpack
from jaxgen.training import make_mesh, shard_batch

RNG = np.random.default_rng(0)
LENGTHS = np.array([4, 7, 2, 5, 7, 3, 6, 2])
PADDING = np.arange(7) >= LENGTHS[:, None]
TINY = Beit3(8, 32, 1, 4, 64, 40, 20)
PAPERS = TINY.clone(shared_attention=True, pair_layers=1, paper_init=True)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_words_stand_one_after_another(groups):
  x = RNG.standard_normal((8, 7, 3), np.float32)
  packing = pack_texts(PADDING, room=6, groups=groups)
  assert packing.cut == 0
  np.testing.assert_array_equal(packing.padding, PADDING)
  packed = np.asarray(pack(x, packing))
  assert packed.shape == (groups, 6 * 8 // groups, 3)
  rows = 8 // groups
  for i in range(groups):
    texts = slice(i * rows, (i + 1) * rows)
    words = x[texts][~PADDING[texts]]
    np.testing.assert_array_equal(packed[i, : len(words)], words)
    assert not packed[i, len(words) :].any()
  back = unpack(packed, packing)
  np.testing.assert_array_equal(back, np.where(PADDING[..., None], 0, x))


def test_the_longest_texts_are_cut():
  """Room for 14 words in each of two groups that have 18."""
  packing = pack_texts(PADDING, room=3.5, groups=2)
  lengths = (~np.asarray(packing.padding)).sum(1)
  np.testing.assert_array_equal(lengths, [4, 4, 2, 4, 4, 3, 4, 2])
  assert packing.cut == 36 - 27
  assert packing.filled.sum() == 27
  x = RNG.standard_normal((8, 7, 1), np.float32)
  back = unpack(pack(x, packing), packing)
  kept = np.arange(7) < lengths[:, None]
  np.testing.assert_array_equal(back, np.where(kept[..., None], x, 0))


def test_gradients_are_those_of_numpys_indexing():
  """d/dx of w . words is w at the words; d/dy of v . text is v of the words."""
  packing = pack_texts(PADDING, room=5, groups=2)
  x = RNG.standard_normal((8, 7, 3), np.float32)
  w = RNG.standard_normal((2, 20, 3), np.float32)
  v = RNG.standard_normal(x.shape, np.float32)
  found = jax.grad(lambda x: (w * pack(x, packing)).sum())(x)
  wanted = np.zeros_like(x)
  for i, texts in enumerate((slice(4), slice(4, 8))):
    kept = ~PADDING[texts]
    wanted[texts][kept] = w[i, : kept.sum()]
  np.testing.assert_array_equal(found, wanted)
  found = jax.grad(lambda y: (v * unpack(y, packing)).sum())(w)
  wanted = np.zeros_like(w)
  for i, texts in enumerate((slice(4), slice(4, 8))):
    words = v[texts][~PADDING[texts]]
    wanted[i, : len(words)] = words
  np.testing.assert_array_equal(found, wanted)


def test_mistakes():
  with pytest.raises(ValueError, match="8 texts do not make 3 groups"):
    pack_texts(PADDING, 4, 3)
  with pytest.raises(ValueError, match="room for 2 words at least, got 1"):
    pack_texts(PADDING, 1)


@pytest.mark.parametrize("trunk", [TINY, PAPERS], ids=["released", "papers"])
@pytest.mark.parametrize("with_images", [False, True], ids=["texts", "pairs"])
def test_networks_see_no_difference(trunk, with_images):
  network = MaskedDataModel(trunk, 11)
  images = RNG.standard_normal((8, 16, 16, 3), np.float32)
  tokens = RNG.integers(3, 40, (8, 7))
  key = jax.random.key(0)
  params = network.init(key, images, tokens)["params"]
  x = images if with_images else None
  weights = RNG.standard_normal((8, 7, 40), np.float32)
  weights = np.where(PADDING[..., None], 0, weights)

  def loss(params, padding):
    visual, text = network.apply({"params": params}, x, tokens, padding)
    total = (text * weights).sum()
    return total if visual is None else total + jnp.sin(visual).sum()

  wanted, gradient = jax.jit(jax.value_and_grad(loss))(params, PADDING)
  packing = pack_texts(PADDING, room=6, groups=4)
  got, found = jax.jit(jax.value_and_grad(loss))(params, packing)
  np.testing.assert_allclose(got, wanted, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    found,
    gradient,
  )


def test_no_word_leaves_its_device():
  """A group for each of eight devices: nothing is gathered or passed on."""
  network = MaskedDataModel(PAPERS, 11)
  images = RNG.standard_normal((8, 16, 16, 3), np.float32)
  tokens = RNG.integers(3, 40, (8, 7))
  init = lambda: network.init(jax.random.key(0), images, tokens)["params"]

  def loss(params, x, tokens, padding):
    packing = pack_texts(padding, room=7, groups=8)
    visual, text = network.apply({"params": params}, x, tokens, packing)
    return jnp.square(visual).mean() + jnp.square(text).mean()

  batch = shard_batch(make_mesh(), (images, tokens, PADDING))
  step = jax.jit(jax.grad(loss)).lower(jax.eval_shape(init), *batch)
  program = step.compile().as_text()
  assert "all-reduce" in program  # of the gradients
  assert "all-gather" not in program
  assert "collective-permute" not in program
