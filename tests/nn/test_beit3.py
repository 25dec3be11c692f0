"""BEiT-3's trunk and heads; tests/parity compares with the originals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.beit3 import BEIT3S, Beit3
from jaxgen.nn.beit3_tasks import (
  ImageBackbone,
  ImageClassifier,
  MaskedDataModel,
)
from jaxgen.nn.captioner import Captioner, caption_mask, empty_memory
from jaxgen.nn.vit import chosen

TINY = Beit3(8, 32, 2, 4, 64, 40, 20)
PAPERS = TINY.clone(shared_attention=True, pair_layers=1, paper_init=True)
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 32, 24, 3), np.float32)
TOKENS = RNG.integers(3, 40, (2, 6))
PADDING = np.arange(6) >= np.array([[4], [5]])
MASK = RNG.random((2, 12)) < 0.4


def variables(network, *args, **options):
  """Random parameters, none of them zero."""
  key = jax.random.key(0)
  shapes = jax.eval_shape(lambda: network.init(key, *args, **options))
  leaves, structure = jax.tree.flatten(shapes)
  rng = np.random.default_rng(0)
  draw = lambda shape: 0.3 * rng.standard_normal(shape, np.float32)
  return structure.unflatten(draw(leaf.shape) for leaf in leaves)


def shapes_of(network, *args):
  return jax.eval_shape(network.init, jax.random.key(0), *args)["params"]


def count(shapes):
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def square(size):
  return jnp.zeros((1, size, size, 3))


TEXT = jnp.zeros((1, 2), int)


# Trunks as torchscale 0.2.0 counts them; the others are printed, in millions,
# in the README of microsoft/unilm's beit3.
def test_parameter_counts():
  base, large = BEIT3S["base"], BEIT3S["large"]
  pair = square(224), TEXT
  shapes = shapes_of(MaskedDataModel(base), *pair)
  assert count(shapes["trunk"]) == 220_987_392
  assert count(shapes) // 10**6 == 276
  assert count(shapes_of(large, *pair)) == 672_702_464
  heads = 1024 * (64010 + 8192) + 64010 + 8192
  assert (672_702_464 + heads) // 10**6 == 746
  # Image classification "only uses vision-related parameters": 87M.
  network = ImageClassifier(base.clone(output_norm=False))
  assert round(count(shapes_of(network, square(224))) / 1e6) == 87


def test_the_papers_giant():
  """Wang et al. 2023, Table 2: 692M + 692M + 52M + 317M, 1.9B in all."""
  giant = BEIT3S["giant"]
  assert (giant.num_layers, giant.pair_layers) == (40, 3)
  few = MaskedDataModel(giant.clone(num_layers=4))
  shapes = shapes_of(few, square(224), TEXT)
  plain, top = shapes["trunk"]["block_0"], shapes["trunk"]["block_3"]
  assert "expert_pair" not in plain
  dense = lambda expert: count(expert["fc1"]) + count(expert["fc2"])
  millions = [
    40 * dense(plain["expert_vision"]),
    40 * dense(plain["expert_text"]),
    3 * dense(top["expert_pair"]),
    40 * count(plain["attn"]),
  ]
  assert [round(n / 1e6) for n in millions] == [692, 692, 52, 317]
  total = count(shapes) + 36 * count(plain)
  assert round(total / 1e9, 1) == 1.9
  # Of Table 2's sizes: what both halves share in a block, an expert, the words,
  # and patches, the tokens of class and mask, positions.
  w, m = 1408, 6144
  shared, expert = 4 * w * w + 4 * w + 2 * w, 2 * w * m + m + w + 2 * w
  words, patches = (64010 + 1024) * w, (14 * 14 * 3 + 1 + 2 + 16 * 16 + 3) * w
  exact = 40 * (shared + 2 * expert) + 3 * expert + words + patches + 2 * w
  assert count(shapes["trunk"]) + 36 * count(plain) == exact
  # "Only vision-related parameters (about 1B) are activated" for images.
  backbone = ImageBackbone(few.trunk.clone(output_norm=False))
  shapes = shapes_of(backbone, square(224))
  plain = shapes["trunk"]["block_0"]
  images = count(shapes) + 36 * count(plain)
  assert images == 40 * (shared + expert) + patches
  assert round(images / 1e9, 1) == 1.0


@pytest.fixture(scope="module", params=["released", "papers"])
def masked_model(request):
  """A network, its parameters and its compiled call."""
  trunk = {"released": TINY, "papers": PAPERS}[request.param]
  network = MaskedDataModel(trunk, 16)
  v = variables(network, IMAGES, TOKENS)
  return network, v, jax.jit(network.apply)


def test_padding_and_masked_patches_are_not_seen(masked_model):
  _, v, apply = masked_model
  pixels = np.repeat(np.repeat(MASK.reshape(2, 4, 3), 8, 1), 8, 2)[..., None]
  other = np.where(pixels, -IMAGES, IMAGES)
  words = np.where(PADDING, 39 - TOKENS, TOKENS)
  call = lambda *args: apply(v, *args, patch_mask=MASK)
  visual, text = call(IMAGES, TOKENS, PADDING)
  again, text_again = call(other, words, PADDING)
  np.testing.assert_array_equal(visual, again)
  np.testing.assert_array_equal(text, text_again)
  assert visual.shape == (2, 12, 16)
  assert text.shape == (2, 6, 40)
  changed, _ = call(IMAGES, words, np.zeros_like(PADDING))
  assert not np.allclose(visual, changed)


@pytest.mark.parametrize("trunk", [TINY, PAPERS], ids=["released", "papers"])
def test_features_of_blocks(trunk):
  """Those of a trunk that ends there, and before the last normalisation."""
  backbone = ImageBackbone(trunk.clone(output_norm=False))
  first = trunk.clone(num_layers=1, output_norm=False)
  v = variables(backbone, IMAGES)
  params = v["params"]["trunk"]
  norm = f"norm_{'shared' if trunk.shared_attention else 'vision'}"
  scale, bias = RNG.standard_normal((2, 32), np.float32)
  normalised = params | {norm: {"scale": scale, "bias": bias}}
  shorter = {name: x for name, x in params.items() if name != "block_1"}

  @jax.jit
  def all_of(images):
    return (
      backbone.apply(v, images),
      first.apply({"params": shorter}, images).image,
      trunk.apply({"params": normalised}, images).image,
    )

  found, want, last = all_of(IMAGES)
  assert [x.shape for x in found] == [(2, 13, 32)] * 2
  np.testing.assert_allclose(found[0], want, rtol=1e-4, atol=1e-4)
  x = np.asarray(found[1], np.float64)
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
  want = x * scale[None, None] + bias[None, None]
  np.testing.assert_allclose(last, want, rtol=1e-3, atol=1e-3)


def test_chosen_tokens():
  h = np.arange(24.0).reshape(2, 4, 3)
  found = chosen(h, np.array([[3, 0], [1, 1]]))
  np.testing.assert_array_equal(found, [h[0, [3, 0]], h[1, [1, 1]]])
  assert chosen(h, None) is h
  network = MaskedDataModel(TINY, 16)
  places = {"patches": np.zeros((2, 5), int), "words": np.zeros((2, 3), int)}
  shapes = jax.eval_shape(
    lambda: network.init_with_output(
      jax.random.key(0), IMAGES, TOKENS, **places
    )[0]
  )
  assert [x.shape for x in shapes] == [(2, 5, 16), (2, 3, 40)]


def test_a_modality_alone_has_no_others_parameters():
  for trunk in (TINY, PAPERS):
    for inputs, absent in (((IMAGES,), "text"), ((None, TOKENS), "vision")):
      shapes = jax.eval_shape(
        lambda trunk=trunk, inputs=inputs: trunk.init(
          jax.random.key(0), *inputs
        )
      )
      for path, _ in jax.tree_util.tree_leaves_with_path(shapes):
        names = "/".join(entry.key for entry in path)
        assert absent not in names
        assert "pair" not in names


def test_experts_of_pairs(masked_model):
  """The papers' top block uses the experts of pairs alone."""
  network, v, apply = masked_model
  papers = network.trunk.shared_attention
  call = lambda v: apply(v, IMAGES, TOKENS, PADDING, patch_mask=MASK)
  want = call(v)
  trunk = v["params"]["trunk"]
  for block in ("block_0", "block_1"):
    for expert in (name for name in trunk[block] if "expert" in name):
      other = jax.tree.map(lambda leaf: leaf, v)  # a copy of the dictionaries
      bias = other["params"]["trunk"][block][expert]["fc2"]
      bias["bias"] = -bias["bias"]
      found = zip(call(other), want, strict=True)
      changed = any(np.abs(a - b).max() > 0.1 for a, b in found)
      idle = papers and block == "block_1" and expert != "expert_pair"
      assert changed != idle, (block, expert)


def test_no_token_runs_through_two_experts():
  """Operations counted by the compiler against those of the formulas."""
  trunk = Beit3(8, 64, 1, 4, 256, 40, 40, output_norm=False)
  pair = jnp.zeros((2, 32, 32, 3)), jnp.zeros((2, 30), int)
  v = jax.eval_shape(trunk.init, jax.random.key(0), *pair)
  call = lambda v: trunk.apply(v, *pair)[:2]
  found = jax.jit(call).lower(v).compile().cost_analysis()["flops"]
  n = 17 + 30
  block = 2 * n * (4 * 64**2 + 2 * 64 * 256) + 4 * n**2 * 64
  wanted = 2 * (block + 2 * 16 * 3 * 8**2 * 64)
  # The rest is normalisation, gelu and softmax; all tokens through the experts
  # of both modalities would be 70% more.
  assert 1.0 <= found / wanted < 1.25


def test_cached_captions_are_the_uncached():
  """Word by word, against the whole caption at once."""
  network = Captioner(PAPERS)
  v = variables(network, IMAGES, TOKENS)
  read = jax.jit(lambda: network.apply(v, IMAGES, method="read"))
  image = read()
  text = empty_memory(PAPERS, 2, 6)
  step = jax.jit(lambda *a: network.apply(v, *a, 39, method="step"))
  whole = jax.jit(network.apply)
  for at in range(5):
    logits, text = step(TOKENS[:, at], at, image, text)
    tokens = np.where(np.arange(6) <= at, TOKENS, 39)
    # What follows the mask token is not seen by it.
    np.testing.assert_allclose(
      logits, whole(v, IMAGES, tokens)[:, at + 1], rtol=1e-3, atol=1e-4
    )


def test_caption_mask():
  """Bao et al. 2020's, for two image tokens and three words."""
  assert caption_mask(2, 3).astype(int).tolist() == [
    [1, 1, 0, 0, 0],
    [1, 1, 0, 0, 0],
    [1, 1, 1, 0, 0],
    [1, 1, 1, 1, 0],
    [1, 1, 1, 1, 1],
  ]


def test_initial_weights():
  """Released: positions 1, words C^-1/2, tokens 0. Paper: BEiT's."""
  small = Beit3(8, 64, 1, 4, 64, 200, 200, output_norm=False)
  cut = 0.02 * 0.5396  # deviation of a normal between -1 and 1
  for trunk in (small, small.clone(paper_init=True)):
    init = jax.jit(lambda key, t=trunk: t.init(key, None, TOKENS)["params"])
    p = init(jax.random.key(0))
    paper = trunk.paper_init
    positions, words = (0.02, 0.02) if paper else (1.0, 64**-0.5)
    factor = 0.5396 if paper else 1.0
    for name, deviation in (("positions", positions), ("embed", words)):
      found = p[f"text_{name}"].std() / factor
      assert abs(found / deviation - 1) < 0.05
    expert = p["block_0"]["expert_text"]
    assert abs(expert["fc1"]["kernel"].std() / cut - 1) < 0.05
    last = cut / 2**0.5 if paper else cut
    assert abs(expert["fc2"]["kernel"].std() / last - 1) < 0.05


def test_remat_and_half_precision():
  def run(trunk):
    return jax.jit(lambda v: trunk.apply(v, None, TOKENS, PADDING).text)(v)

  small = TINY.clone(num_layers=1)
  v = variables(small, None, TOKENS)
  want = run(small)
  found = run(small.clone(remat=True))
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
  found = run(small.clone(dtype=jnp.bfloat16)).astype(jnp.float32)
  assert 1e-6 < np.linalg.norm(found - want) / np.linalg.norm(want) < 0.03


@pytest.mark.parametrize(
  ("args", "options", "message"),
  [
    ((None, None), {}, "got neither"),
    ((IMAGES[:, :30], None), {}, "divisible by 8, got"),
    ((IMAGES, TOKENS[:1]), {}, r"tokens \[2, L\] with L at most 18, got"),
    ((None, np.zeros((1, 19), int)), {}, r"at most 18, got \(1, 19\)"),
    ((None, TOKENS, PADDING[:1]), {}, r"padding of shape \(2, 6\), got"),
    ((None, TOKENS), {"patch_mask": MASK}, "patch mask of shape None"),
    ((IMAGES,), {"patch_mask": MASK[:, :3]}, r"\(2, 12\), got \(2, 3\)"),
  ],
)
def test_what_does_not_fit_is_refused(args, options, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: TINY.init(jax.random.key(0), *args, **options))
  with pytest.raises(ValueError, match="18 tokens at most, got a length of 19"):
    empty_memory(TINY, 2, 19)
  with pytest.raises(ValueError, match="its 5 heads, got 32"):
    TINY.clone(num_heads=5).init(jax.random.key(0), IMAGES)
