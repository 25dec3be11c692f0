"""CLIP's text transformer and latent diffusion's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import quick_jit

from jaxgen.nn.clip_text import CLIP_TEXTS, ClipText, quick_gelu
from jaxgen.nn.ldm_bert import LDM_BERTS, LdmBert

CLIP = ClipText(50, 32, 2, 4, 64, max_length=8, end_token=49)
BERT = LdmBert(50, 32, 2, 4, 16, max_length=8)
TOKENS = np.array([[48, 3, 7, 49, 49, 49], [48, 5, 9, 11, 2, 49]])


def variables(network):
  """Random parameters, none of them zero."""
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.asarray(TOKENS))
  leaves, structure = jax.tree.flatten(shapes)
  rng = np.random.default_rng(0)
  draw = lambda shape: 0.3 * rng.standard_normal(shape, np.float32)
  return structure.unflatten(draw(leaf.shape) for leaf in leaves)


def hidden(network, v, tokens):
  out = quick_jit(network.apply)(v, jnp.asarray(tokens))
  return out.hidden if isinstance(network, ClipText) else out


# Counted in transformers' CLIPTextModel, and in CompVis/latent-diffusion's
# TransformerWrapper without to_logits; PROVENANCE.md says at which commit.
@pytest.mark.parametrize(
  ("network", "count"),
  [
    (CLIP_TEXTS["vit_b_32"], 63_165_952),
    (CLIP_TEXTS["vit_l_14"], 123_060_480),
    (CLIP_TEXTS["open_vit_h_14"], 352_984_064),
    (LDM_BERTS["txt2img_f8_large"], 542_895_360),
    (LDM_BERTS["text2img256"], 166_590_080),
  ],
)
def test_parameter_count(network, count):
  tokens = jnp.zeros((1, 77), jnp.int32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), tokens)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_the_papers_billions_count_the_unused_head():
  """Rombach et al. 2022, Table 15: 1.45B; the U-Net has 872,300,484."""
  encoder, head = 542_895_360, 30_522 * (1280 + 1)
  assert round((872_300_484 + encoder + head) / 1e9, 2) == 1.45
  assert round((872_300_484 + encoder) / 1e9, 2) != 1.45


def test_only_clip_is_causal():
  changed = TOKENS.copy()
  changed[:, 3:] = 1
  v = variables(CLIP)
  before, after = (hidden(CLIP, v, t) for t in (TOKENS, changed))
  np.testing.assert_allclose(after[:, :3], before[:, :3], atol=1e-5)
  assert np.abs(after[:, 3] - before[:, 3]).min() > 1e-4
  v = variables(BERT)
  before, after = (hidden(BERT, v, t) for t in (TOKENS, changed))
  assert np.abs(after[:, 0] - before[:, 0]).max() > 1e-2


@pytest.mark.parametrize("network", [CLIP, BERT])
def test_positions_matter_and_texts_do_not_mix(network):
  v = variables(network)
  out = hidden(network, v, TOKENS)
  assert out.shape == (2, 6, 32)
  np.testing.assert_allclose(
    hidden(network, v, TOKENS[::-1]), out[::-1], rtol=1e-4, atol=1e-5
  )
  same = hidden(network, v, np.full((2, 6), 7))[0]
  assert np.abs(same[1:] - same[:1]).max(1).min() > 1e-2


def test_pooled_is_the_first_end_token():
  features = quick_jit(CLIP.apply)(variables(CLIP), jnp.asarray(TOKENS))
  want = np.stack([features.hidden[0, 3], features.hidden[1, 5]])
  np.testing.assert_allclose(features.pooled, want, atol=1e-6)


def test_quick_gelu_is_near_gelu():
  """Its slope at 0 is GELU's, its distance at most 0.0203 (near |x| = 2.2)."""
  x = np.linspace(-8, 8, 2001)
  distance = np.abs(quick_gelu(x) - jax.nn.gelu(x, approximate=False))
  assert distance.max() == pytest.approx(0.0203, abs=1e-4)
  assert jax.grad(quick_gelu)(0.0) == 0.5


def test_initial_weights():
  """OpenAI's: 1 / sqrt(width), residual branches less by their number."""
  key = jax.random.key(0, impl="rbg")
  network = ClipText(1000, 128, 3, 4, 512)
  params = quick_jit(network.init)(key, TOKENS)["params"]
  block = params["block_1"]
  for leaf, std in (
    (params["token_embedding"]["embedding"], 0.02),
    (params["position_embedding"], 0.01),
    (block["q"]["kernel"], 128**-0.5),
    (block["proj_out"]["kernel"], (128 * 6) ** -0.5),
    (block["fc1"]["kernel"], (2 * 128) ** -0.5),
    (block["fc2"]["kernel"], (128 * 6) ** -0.5),
  ):
    assert np.std(leaf) == pytest.approx(std, rel=0.05)
  params = quick_jit(LdmBert(1000, 64, 1).init)(key, TOKENS)["params"]
  assert np.std(params["token_embedding"]["embedding"]) == pytest.approx(
    0.02, rel=0.05
  )
  for leaf in params["block_0"]["fc2"].values():  # PyTorch's: uniform
    assert np.abs(leaf).max() <= 256**-0.5
    assert np.std(leaf) == pytest.approx((3 * 256) ** -0.5, rel=0.2)


@pytest.mark.parametrize("network", [CLIP, BERT])
def test_remat_and_bfloat16(network):
  v = variables(network)
  want = hidden(network, v, TOKENS)
  remat = network.clone(remat=True)
  np.testing.assert_allclose(
    hidden(remat, v, TOKENS), want, rtol=1e-4, atol=1e-5
  )
  f = lambda v: remat.apply(v, jnp.asarray(TOKENS))
  assert str(jax.make_jaxpr(f)(v)).count("prevent_cse") == 2  # blocks

  half = network.clone(dtype=jnp.bfloat16)
  got = hidden(half, v, TOKENS)
  assert got.dtype == jnp.float32
  assert 0 < jnp.linalg.norm(got - want) < 0.05 * jnp.linalg.norm(want)
  shapes = jax.eval_shape(half.init, jax.random.key(0), jnp.asarray(TOKENS))
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {
    jnp.dtype("float32")
  }


@pytest.mark.parametrize(
  ("network", "tokens", "message"),
  [
    (CLIP, np.zeros((1, 9), int), r"ClipText needs .* N <= 8, got \(1, 9\)\."),
    (BERT, np.zeros(8, int), r"LdmBert needs .* N <= 8, got \(8,\)\."),
    (CLIP, np.zeros((1, 8)), "needs integer tokens, got float"),
    (CLIP.clone(num_heads=5), TOKENS, "by its 5 heads, got 32"),
    (CLIP.clone(activation="relu"), TOKENS, "or 'gelu', got 'relu'"),
  ],
)
def test_bad_input_is_one_sentence(network, tokens, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(network.init, jax.random.key(0), jnp.asarray(tokens))
