"""BEiT's networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.masked import (
  masked_image_loss,
  masked_places,
  patch_aggregation_loss,
)
from jaxgen.nn.beit import (
  BEITS,
  Beit,
  Classifier,
  MaskedImageModel,
  PatchAggregationModel,
)
from jaxgen.nn.vit import Block, DropPath, chosen, relative_position_index

TINY = Beit(8, 32, 3, 4, 64)
IMAGES = np.random.default_rng(0).standard_normal((2, 32, 24, 3), np.float32)
MASK = np.random.default_rng(1).random((2, 12)) < 0.4


def variables(network, *args):
  """Random parameters, none of them zero."""
  shapes = jax.eval_shape(network.init, jax.random.key(0), *args)
  leaves, structure = jax.tree.flatten(shapes)
  rng = np.random.default_rng(0)
  draw = lambda shape: 0.3 * rng.standard_normal(shape, np.float32)
  return structure.unflatten(draw(leaf.shape) for leaf in leaves)


def tuned(name):
  backbone = BEITS[name]
  if not backbone.absolute_positions:
    backbone = backbone.clone(relative_positions="per_block")
  return Classifier(backbone.clone(mask_token=False))


# Counted in microsoft/unilm's BEiT, commit 768a3c8; that of the base model is
# also in the log of its training.
@pytest.mark.parametrize(
  ("network", "size", "count"),
  [
    (MaskedImageModel(BEITS["base"]), 224, 91_965_776),
    (MaskedImageModel(BEITS["large"]), 224, 311_534_016),
    (MaskedImageModel(BEITS["base_plain"]), 224, 92_089_856),
    (tuned("base"), 224, 86_530_984),
    (tuned("base"), 384, 86_744_104),
    (tuned("base"), 512, 86_997_544),
    (tuned("large"), 224, 304_430_568),
    (tuned("large"), 384, 304_998_888),
    (tuned("large"), 512, 305_674_728),
    (tuned("base_plain"), 224, 86_558_440),
  ],
)
def test_parameter_count(network, size, count):
  x = jnp.zeros((1, size, size, 3))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_relative_position_index():
  """Made by the original code for 2 x 2 patches."""
  assert relative_position_index(2, 2).tolist() == [
    [11, 9, 9, 9, 9],
    [10, 4, 3, 1, 0],
    [10, 5, 4, 2, 1],
    [10, 7, 6, 4, 3],
    [10, 8, 7, 5, 4],
  ]
  # Equal offsets share an entry, also where height and width differ.
  index = relative_position_index(3, 5)[1:, 1:]
  y, x = np.divmod(np.arange(15), 5)
  offsets = np.stack([y[:, None] - y, x[:, None] - x], -1).reshape(-1, 2)
  pairs = {}
  for offset, entry in zip(map(tuple, offsets), index.ravel(), strict=True):
    assert pairs.setdefault(offset, entry) == entry
  assert sorted(pairs.values()) == list(range(5 * 9))


def test_masked_patches_are_not_seen():
  network = MaskedImageModel(TINY, 16)
  v = variables(network, IMAGES)
  pixels = np.repeat(np.repeat(MASK.reshape(2, 4, 3), 8, 1), 8, 2)[..., None]
  other = np.where(pixels, -IMAGES, IMAGES)
  apply = jax.jit(network.apply)
  np.testing.assert_array_equal(apply(v, IMAGES, MASK), apply(v, other, MASK))
  assert not np.allclose(apply(v, IMAGES), apply(v, other))


@pytest.mark.parametrize(
  ("network", "loss_of"),
  [
    (MaskedImageModel(TINY, 16), masked_image_loss),
    (PatchAggregationModel(TINY, 16, 1), patch_aggregation_loss),
  ],
  ids=["plain", "aggregation"],
)
def test_the_loss_needs_logits_of_masked_patches_only(network, loss_of):
  """Where rows have fewer than K masked patches, others fill the places."""
  v = variables(network, IMAGES)
  tokens = np.random.default_rng(3).integers(0, 16, MASK.shape)
  most = MASK.sum(1).max() + 1
  places, masked = masked_places(MASK, most)

  def everywhere(v):
    return loss_of(network.apply(v, IMAGES, MASK), tokens, MASK)

  def where_masked(v):
    logits = network.apply(v, IMAGES, MASK, True, places)
    assert jax.tree.leaves(logits)[0].shape == (2, most, 16)
    return loss_of(logits, chosen(tokens, places), masked)

  want, found = (
    jax.jit(jax.value_and_grad(f, has_aux=True))(v)
    for f in (everywhere, where_masked)
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    found,
    want,
  )


def test_the_class_token_takes_no_part_in_the_mean():
  """Permuting patches without positions permutes the features alone."""
  bare = TINY.clone(relative_positions="none", mask_token=False)
  network = Classifier(bare, 5)
  v = variables(network, IMAGES)
  rolled = np.roll(IMAGES, 8, axis=1)
  apply = jax.jit(network.apply)
  np.testing.assert_allclose(apply(v, IMAGES), apply(v, rolled), atol=1e-5)
  placed = Classifier(TINY.clone(mask_token=False), 5)
  v = variables(placed, IMAGES)
  apply = jax.jit(placed.apply)
  assert not np.allclose(apply(v, IMAGES), apply(v, rolled), atol=1e-3)


def test_remat_and_half_precision():
  network = MaskedImageModel(TINY, 16)
  v = variables(network, IMAGES)
  want = jax.jit(network.apply)(v, IMAGES, MASK)
  again = network.clone(backbone=TINY.clone(remat=True))
  found = jax.jit(again.apply)(v, IMAGES, MASK)
  np.testing.assert_allclose(found, want, rtol=1e-5)
  half = network.clone(backbone=TINY.clone(dtype=jnp.bfloat16))
  found = jax.jit(half.apply)(v, IMAGES, MASK)
  assert found.dtype == jnp.float32
  error = np.linalg.norm(found - want) / np.linalg.norm(want)
  assert 1e-6 < error < 0.03


def test_stochastic_depth_keeps_the_mean():
  x = jnp.ones((4000, 2))
  y = DropPath(0.25).apply({}, x, False, rngs={"drop_path": jax.random.key(0)})
  assert {0.0, np.float32(4 / 3)} == set(np.unique(y).tolist())
  assert (y[:, 0] == y[:, 1]).all()
  assert abs(y.mean() - 1) < 4 * (1 / 3 / 4000) ** 0.5
  np.testing.assert_array_equal(DropPath(0.25).apply({}, x, True), x)


def test_initial_weights():
  """Deviation 0.02 cut at +- 0.02; the branches' last ones by sqrt(2 depth)."""
  block = Block(4, 256, depth=3, layer_scale=0.1)
  x = jnp.zeros((1, 5, 64))
  p = block.init(jax.random.key(0), x, None, (2, 2))["params"]
  first, last = np.asarray(p["fc1"]["kernel"]), np.asarray(p["fc2"]["kernel"])
  assert 0.0199 < np.abs(first).max() <= 0.02
  cut = 0.02 * 0.5396  # deviation of a normal between -1 and 1
  assert abs(first.std() / cut - 1) < 0.02
  assert abs(last.std() / cut * 6**0.5 - 1) < 0.02
  assert (p["gamma_1"] == np.float32(0.1)).all()
  assert not np.any(p["attn"]["q_bias"])


@pytest.mark.parametrize(
  ("change", "args", "message"),
  [
    ({}, (IMAGES[:, :30],), "divisible by 8, got"),
    ({}, (IMAGES, MASK[:, :5]), r"mask of shape \(2, 12\), got \(2, 5\)"),
    ({"mask_token": False}, (IMAGES, MASK), "takes no mask"),
    ({"num_heads": 5}, (IMAGES,), "its 5 heads, got 32"),
    ({"relative_positions": "both"}, (IMAGES,), "got 'both'"),
  ],
)
def test_what_does_not_fit_is_refused(change, args, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(TINY.clone(**change).init, jax.random.key(0), *args)
