from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import quick_jit

from jaxgen.nn import spatial_transformer
from jaxgen.nn.attention import attention
from jaxgen.nn.ldm_unet import LDM_NETWORKS, UNet
from jaxgen.nn.openai_blocks import AttentionBlock
from jaxgen.nn.spatial_transformer import (
  CrossAttention,
  SpatialTransformer,
  TransformerBlock,
)

STORED = np.load(Path(__file__).parents[1] / "data/ldm_unet.npz")
# 64 channels make groups of two: alone in its group, a channel would lose what
# is added to it before the normalisation.
TINY = UNet(64, (1,), 1, (1,), num_heads=2, context_dim=6, dropout=0.5)


def conditions(unet, batch=1, size=8):
  given = {}
  if unet.context_dim is not None:
    given["context"] = jnp.ones((batch, 3, unet.context_dim))
  if unet.concat_channels:
    given["concat"] = jnp.ones((batch, size, size, unet.concat_channels))
  if unet.num_classes is not None:
    given["y"] = jnp.zeros(batch, jnp.int32)
  return given


def shapes(unet, size=8):
  x = jnp.zeros((1, size, size, unet.out_channels))
  return jax.eval_shape(
    unet.init, jax.random.key(0), x, jnp.zeros(1), **conditions(unet, 1, size)
  )["params"]


def random_like(tree):
  leaves, structure = jax.tree.flatten(tree)
  rng = np.random.default_rng(0)
  draw = lambda shape: 0.1 * rng.standard_normal(shape, np.float32)
  return {"params": structure.unflatten(draw(leaf.shape) for leaf in leaves)}


def random_variables(module, *args):
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
  return random_like(shapes["params"])


def normal(*shape, seed=1):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


# Counted in CompVis' modules, built with their configurations; Rombach et al.
# 2022, Tables 12 to 15, prints 274M, 294M and 400M, its other tables 395M.
@pytest.mark.parametrize(
  ("name", "original", "path"),
  [
    ("celeba256", 274_056_163, "models/ldm/celeba256/config.yaml"),
    (
      "lsun_churches256",
      294_966_916,
      "models/ldm/lsun_churches256/config.yaml",
    ),
    ("cin256", 394_984_196, "models/ldm/cin256/config.yaml"),
    ("cin256_v2", 400_920_579, "configs/latent-diffusion/cin256-v2.yaml"),
    ("text2img256", 403_623_939, "models/ldm/text2img256/config.yaml"),
    (
      "txt2img_1p4b",
      872_300_484,
      "configs/latent-diffusion/txt2img-1p4B-eval.yaml",
    ),
    (
      "layout2img_openimages256",
      246_277_379,
      "models/ldm/layout2img-openimages256/config.yaml",
    ),
    ("bsr_sr", 113_622_563, "models/ldm/bsr_sr/config.yaml"),
    (
      "semantic_synthesis256",
      215_229_315,
      "models/ldm/semantic_synthesis256/config.yaml",
    ),
    ("inpainting_big", 387_245_827, "models/ldm/inpainting_big/config.yaml"),
    (
      "rdm768",
      1_335_480_400,
      "configs/retrieval-augmented-diffusion/768x768.yaml",
    ),
    ("sd1", 859_520_964, "configs/stable-diffusion/v1-inference.yaml"),
    # Nine input channels: this configuration with five more.
    (
      "sd1_inpainting",
      859_535_364,
      "configs/stable-diffusion/v1-inference.yaml",
    ),
  ],
)
def test_parameter_count_and_heads(name, original, path):
  unet = LDM_NETWORKS[name]
  heads = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, AttentionBlock | SpatialTransformer):
      heads.append(context.module.num_heads)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    leaves = jax.tree.leaves(shapes(unet, 2 ** (len(unet.channel_mult) - 1)))
  assert sum(leaf.size for leaf in leaves) == original
  assert heads == STORED[f"heads/{path}"].tolist()


def test_networks_that_are_the_same():
  for name in ("ffhq256", "lsun_beds256"):
    assert LDM_NETWORKS[name] == LDM_NETWORKS["celeba256"]
  semantic = LDM_NETWORKS["semantic_synthesis256"]
  assert LDM_NETWORKS["semantic_synthesis512"] == semantic
  assert len(LDM_NETWORKS) == 13 + 3


def test_parameters_do_not_depend_on_the_size():
  assert shapes(TINY, 4) == shapes(TINY, 32)


def test_attention_to_one_token_is_that_token():
  """As a class label is: a softmax over one is one, whatever asks."""
  module = CrossAttention(num_heads=4)
  x, context = normal(2, 5, 32), normal(2, 1, 6, seed=2)
  v = random_variables(module, x, context)
  params = v["params"]
  assert set(params["to_k"]) == {"kernel"}
  value = context @ params["to_v"]["kernel"] @ params["to_out"]["kernel"]
  value = value + params["to_out"]["bias"]
  want = np.broadcast_to(value, x.shape)
  np.testing.assert_allclose(module.apply(v, x, context), want, atol=1e-6)


def test_order_and_repetition_of_tokens_do_not_matter():
  module = SpatialTransformer(num_heads=4)
  x, context = normal(2, 2, 3, 32), normal(2, 5, 6, seed=2)
  v = random_variables(module, x, context)
  apply = quick_jit(module.apply)
  want = apply(v, x, context)
  same = np.concatenate([context[:, ::-1], context], axis=1)
  np.testing.assert_allclose(apply(v, x, same), want, atol=1e-5)
  assert not np.allclose(apply(v, x, -context), want, atol=1e-3)


def test_transformer_starts_as_the_identity():
  x, context = normal(2, 2, 3, 32), normal(2, 5, 6, seed=2)
  module = SpatialTransformer(num_heads=4, depth=2)
  init = quick_jit(module.init_with_output)
  out, v = init(jax.random.key(0), x, context)
  np.testing.assert_array_equal(out, x)
  layer = v["params"]["block_1"]["ff_out"]
  for leaf in layer.values():  # uniform: Kaiming's with a = sqrt(5)
    assert np.abs(leaf).max() <= 128**-0.5
    assert np.std(leaf) == pytest.approx((3 * 128) ** -0.5, rel=0.2)


def test_gated_unit_is_exact():
  """With the attentions silent and gates of 1, x grows by gelu(1)."""
  module = TransformerBlock(num_heads=1)
  x = normal(1, 2, 32)
  v = random_variables(module, x)
  params = jax.tree.map(np.zeros_like, v["params"])
  params["ff_in"]["bias"] = jnp.ones(256)
  params["ff_out"]["kernel"] = jnp.full((128, 32), 1 / 128)
  grown = quick_jit(module.apply)({"params": params}, x) - x
  np.testing.assert_allclose(grown, 0.841344746, rtol=1e-6)  # Phi(1)


@pytest.mark.parametrize("chunk", [4, 99])
def test_attention_in_chunks_is_the_same(chunk):
  q, k, v = normal(2, 10, 3, 8), normal(2, 7, 3, 8), normal(2, 7, 3, 8, seed=2)

  def loss(q, chunk):
    out = attention(q, k, v, query_chunk=chunk)
    return jnp.sum(out**2), out

  run = quick_jit(jax.grad(loss, has_aux=True), static_argnums=1)
  (grad, out), (want_grad, want) = run(q, chunk), run(q, None)
  np.testing.assert_allclose(out, want, atol=1e-6)
  np.testing.assert_allclose(grad, want_grad, atol=1e-5)


def test_chunks_hold_no_whole_matrix_of_weights():
  q = jax.ShapeDtypeStruct((1, 512, 1, 8), jnp.float32)

  def memory(chunk):
    f = jax.jit(lambda q, k, v: attention(q, k, v, query_chunk=chunk))
    return f.lower(q, q, q).compile().memory_analysis().temp_size_in_bytes

  assert memory(None) >= 4 * 512 * 512
  assert memory(16) <= 4 * 512 * 512 / 4


def test_flash_attention_where_cudnn_has_it(monkeypatch):
  asked = []

  def record(q, k, v, implementation=None):
    asked.append(implementation)
    return q

  monkeypatch.setattr(jax.nn, "dot_product_attention", record)
  for dtype, dim in (
    (jnp.bfloat16, 40),
    (jnp.float16, 128),
    (jnp.float32, 40),
    (jnp.bfloat16, 160),
    (jnp.bfloat16, 36),
  ):
    q = jnp.ones((1, 2, 1, dim), dtype)
    attention(q, q, q, flash=True)
  assert asked == ["cudnn", "cudnn"]


def test_options_reach_every_transformer(monkeypatch):
  unet = TINY.clone(query_chunk=7, flash=True, transformer_depth=2)
  asked = []

  def record(q, k, v, **options):
    asked.append(options)
    return q

  monkeypatch.setattr(spatial_transformer, "attention", record)
  params = shapes(unet)
  assert asked == [{"query_chunk": 7, "flash": True}] * len(asked)
  assert len(asked) == 4 * 2 * 2  # transformers, blocks, attentions
  assert set(params["mid_attn_1"]) >= {"block_0", "block_1"}


def test_conditions_change_the_output():
  unet = TINY.clone(concat_channels=2, num_classes=5)
  given = {
    "context": normal(2, 3, 6),
    "concat": normal(2, 8, 8, 2),
    "y": np.array([1, 1]),
  }
  x, v = normal(2, 8, 8, 4), random_like(shapes(unet))
  apply = quick_jit(unet.apply)
  out = apply(v, x, 7, **given)
  assert (out.shape, out.dtype) == ((2, 8, 8, 4), jnp.float32)
  for name, value in given.items():
    changed = given | {name: np.stack([value[0], value[1] + 1])}
    other = apply(v, x, 7, **changed)
    np.testing.assert_allclose(other[0], out[0], atol=1e-5)
    assert not np.allclose(other[1], out[1], atol=1e-3), name


def test_remat_and_bfloat16():
  """One recomputes every block, the other is near; parameters are float32."""
  x, v = normal(1, 8, 8, 4), random_like(shapes(TINY))
  context = normal(1, 3, 6)

  def run(unet):
    f = lambda v: unet.apply(v, x, 3, context)
    steps = jax.make_jaxpr(f)(v).eqns
    return quick_jit(f)(v), sum("prevent_cse" in step.params for step in steps)

  plain, none = run(TINY)
  half = TINY.clone(remat=True, dtype=jnp.bfloat16)
  got, blocks = run(half)
  assert (none, blocks) == (0, 5 + 4)  # residual blocks, transformers
  assert got.dtype == jnp.float32
  assert 0 < jnp.linalg.norm(got - plain) < 0.05 * jnp.linalg.norm(plain)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes(half))} == {
    jnp.dtype("float32")
  }


CONTEXT = {"context": jnp.zeros((2, 3, 6))}


@pytest.mark.parametrize(
  ("unet", "shape", "given", "message"),
  [
    (TINY, (8, 8, 4), CONTEXT, r"UNet needs x of shape \[B, H, W, C\]"),
    (
      TINY.clone(channel_mult=(1, 2)),
      (2, 8, 7, 4),
      CONTEXT,
      "by 2, got 8 x 7",
    ),
    (
      TINY.clone(attention_resolutions=(1, 4)),
      (2, 8, 8, 4),
      CONTEXT,
      r"maps at rates \[1\], so attention at \(1, 4\)",
    ),
    (TINY.clone(num_heads=5), (2, 8, 8, 4), CONTEXT, "its 5 heads, got 64"),
    (
      TINY.clone(num_head_channels=5),
      (2, 8, 8, 4),
      CONTEXT,
      "heads of 5 channels and needs .* got 64",
    ),
    (TINY.clone(query_chunk=0), (2, 8, 8, 4), CONTEXT, "chunk >= 1, got 0"),
    (TINY, (2, 8, 8, 4), {}, r"context of shape \(2, S, 6\), got None\."),
    (
      TINY,
      (1, 8, 8, 4),
      CONTEXT,
      r"context of shape \(1, S, 6\), got \(2, 3, 6\)\.",
    ),
    (
      TINY.clone(context_dim=None),
      (2, 8, 8, 4),
      CONTEXT,
      "context_dim None needs no context",
    ),
    (
      TINY,
      (2, 8, 8, 4),
      CONTEXT | {"concat": jnp.zeros((2, 8, 8, 1))},
      "concat_channels 0 needs no concat",
    ),
    (
      TINY.clone(concat_channels=2),
      (2, 8, 8, 4),
      CONTEXT | {"concat": jnp.zeros((2, 8, 8, 1))},
      r"concat of shape \(2, 8, 8, 2\), got \(2, 8, 8, 1\)",
    ),
    (TINY, (2, 8, 8, 4), CONTEXT | {"y": 0}, "None needs no labels y"),
    (TINY.clone(num_classes=5), (2, 8, 8, 4), CONTEXT, "5 needs labels y"),
    (
      TINY.clone(num_classes=5),
      (2, 8, 8, 4),
      CONTEXT | {"y": jnp.zeros(3, int)},
      r"y of shape \(2,\) or \(\), got \(3,\)",
    ),
  ],
)
def test_bad_input_is_one_sentence(unet, shape, given, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(unet.init, jax.random.key(0), jnp.zeros(shape), 0, **given)
