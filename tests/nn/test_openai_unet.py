import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import quick_jit

from jaxgen.nn.openai_blocks import Conv, ResBlock, qkv_attention
from jaxgen.nn.openai_classifier import CLASSIFIERS, Classifier
from jaxgen.nn.openai_unet import ADM_NETWORKS, IDDPM_NETWORKS, UNet

TINY = UNet(32, (1,), 1, attention_resolutions=(8,), num_heads=2, dropout=0.5)
COND = TINY.clone(num_classes=5)
UPSAMPLER = TINY.clone(super_resolution=True)
CLASSIFIER = Classifier(
  32, (1, 2), 1, attention_resolutions=(8,), num_head_channels=32, num_classes=4
)


def shapes(network, size):
  x = jnp.zeros((1, size, size, 3))
  conditions = {}
  if isinstance(network, UNet) and network.num_classes is not None:
    conditions["y"] = jnp.zeros(1, jnp.int32)
  if isinstance(network, UNet) and network.super_resolution:
    conditions["low_res"] = jnp.zeros((1, 4, 4, 3))
  return jax.eval_shape(
    network.init, jax.random.key(0), x, jnp.zeros(1), **conditions
  )["params"]


def variables(network, size=8):
  """Random parameters, none of them zero."""
  leaves, structure = jax.tree.flatten(shapes(network, size))
  rng = np.random.default_rng(0)
  draw = lambda shape: 0.1 * rng.standard_normal(shape, np.float32)
  return {"params": structure.unflatten(draw(leaf.shape) for leaf in leaves)}


def images(size=8, batch=2):
  rng = np.random.default_rng(1)
  return rng.standard_normal((batch, size, size, 3), np.float32)


# Counted in OpenAI's PyTorch modules, built with the flags of their READMEs,
# which print 270M and 280M. Dhariwal & Nichol 2021, Table 11, prints ADM's
# first four and last: 296M, 422M, 554M, 559M, 552M.
@pytest.mark.parametrize(
  ("network", "size", "original"),
  [
    (IDDPM_NETWORKS["imagenet64"], 64, 121_063_942),
    (IDDPM_NETWORKS["imagenet64_cond"], 64, 273_049_350),
    (IDDPM_NETWORKS["cifar10"], 32, 52_546_438),
    (IDDPM_NETWORKS["lsun_bedroom"], 256, 113_676_678),
    (IDDPM_NETWORKS["upsample_64_256"], 256, 279_792_390),
    (ADM_NETWORKS["imagenet64"], 64, 295_904_454),
    (ADM_NETWORKS["imagenet128"], 128, 421_529_606),
    (ADM_NETWORKS["imagenet256"], 256, 553_838_086),
    (ADM_NETWORKS["imagenet512"], 512, 558_997_638),
    (ADM_NETWORKS["imagenet256_uncond"], 256, 552_814_086),
    (ADM_NETWORKS["upsample_64_256"], 256, 311_795_910),
    (ADM_NETWORKS["upsample_128_512"], 512, 308_835_270),
    (CLASSIFIERS["imagenet64"], 64, 65_438_568),
    (CLASSIFIERS["imagenet128"], 128, 42_568_040),
    (CLASSIFIERS["imagenet256"], 256, 54_096_360),
    (CLASSIFIERS["imagenet512"], 512, 54_448_360),
  ],
)
def test_parameter_count(network, size, original):
  leaves = jax.tree.leaves(shapes(network, size))
  assert sum(leaf.size for leaf in leaves) == original


def test_lsun_is_the_unconditional_network_with_dropout():
  lsun = ADM_NETWORKS["imagenet256_uncond"].clone(dropout=0.1)
  assert ADM_NETWORKS["lsun"] == lsun


def test_starts_at_zero_and_as_pytorch_does():
  def init(key):
    params = COND.init(key, images(), 0, y=0)["params"]
    layers = ("conv_out", "mid_attn_1", "up_0_block_0", "temb_dense1")
    return {name: params[name] for name in (*layers, "label_emb")}

  params = quick_jit(init)(jax.random.key(0))
  for zero in (
    params["conv_out"],
    params["mid_attn_1"]["proj_out"],
    params["up_0_block_0"]["conv2"],
  ):
    assert not any(np.any(leaf) for leaf in zero.values())
  conv, dense = params["up_0_block_0"]["conv1"], params["temb_dense1"]
  for layer, fan_in in ((conv, 9 * 64), (dense, 128)):
    for leaf in layer.values():  # uniform: Kaiming's with a = sqrt(5)
      assert np.abs(leaf).max() <= fan_in**-0.5
      assert np.std(leaf) == pytest.approx((3 * fan_in) ** -0.5, rel=0.2)
  assert np.std(params["label_emb"]["embedding"]) == pytest.approx(1, rel=0.1)


def test_strided_convolution_is_padded_on_all_sides():
  """Not as 'SAME': the first output sees a zero, the last pixel is seen."""
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[0, 1], kernel[2, 1] = 1.0, 10.0  # the rows above and below
  v = {"params": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
  x = np.arange(1.0, 5.0).reshape(1, 4, 1, 1) * np.ones((1, 1, 2, 1))
  out = Conv(1, stride=2).apply(v, x)
  np.testing.assert_array_equal(out.ravel(), [20.0, 42.0])


def test_attention_orders_are_permutations_of_each_other():
  qkv = images()[..., :3].reshape(2, 8, 24)
  heads, dim = 2, 4
  old = qkv.reshape(2, 8, heads, 3, dim)  # [head][q|k|v][channel]
  new = old.transpose(0, 1, 3, 2, 4).reshape(qkv.shape)
  want = qkv_attention(qkv, heads, new_order=False)
  np.testing.assert_array_equal(qkv_attention(new, heads, new_order=True), want)
  assert not np.allclose(qkv_attention(qkv, heads, new_order=True), want)

  q, k, v = np.split(np.float64(old[0, :, 1]), 3, axis=1)  # the second head
  weights = np.exp(q[:, 0] @ k[:, 0].T / np.sqrt(dim))
  weights /= weights.sum(1, keepdims=True)
  np.testing.assert_allclose(want[0, :, dim:], weights @ v[:, 0], rtol=1e-5)


def test_conditions_change_the_output():
  unet = COND.clone(super_resolution=True)
  v, x, low_res = variables(unet), images(), images(4)
  apply = quick_jit(unet.apply)
  out = apply(v, x, 7, np.array([2, 2]), low_res)
  assert out.shape == (2, 8, 8, 6)
  assert not np.allclose(apply(v, x, 7, np.array([2, 3]), low_res)[1], out[1])
  assert not np.allclose(apply(v, x, 7, np.array([2, 2]), -low_res), out)
  np.testing.assert_allclose(apply(v, x, 7, 2, low_res), out, rtol=1e-5)


def test_timestep_shape_and_type_do_not_matter():
  v, x = variables(TINY), images()
  apply = quick_jit(TINY.apply)
  want = apply(v, x, jnp.array([7, 7]))
  np.testing.assert_array_equal(apply(v, x, jnp.bfloat16(7)), want)
  assert not np.allclose(apply(v, x, jnp.array([8, 7]))[0], want[0])


def test_dropout_needs_its_key_and_acts_only_in_training():
  v, x = variables(TINY), images()

  def run(seed, deterministic):
    rngs = {"dropout": jax.random.key(seed, impl="rbg")}
    return TINY.apply(v, x, 1, deterministic=deterministic, rngs=rngs)

  train = quick_jit(lambda seed: run(seed, False))
  assert not np.allclose(train(0), train(1))
  with pytest.raises(flax.errors.InvalidRngError):
    jax.eval_shape(lambda: TINY.apply(v, x, 1, deterministic=False))
  draws = lambda *args: "random_bits" in str(jax.make_jaxpr(run, 1)(*args))
  assert draws(0, False)
  assert not draws(0, True)


def test_dropout_is_before_the_second_convolution():
  block = ResBlock(32, dropout=0.5)
  x, emb = images()[..., :1] * np.ones(32, np.float32)[None, None, None], None
  emb = np.ones((2, 8), np.float32)
  v = block.init(jax.random.key(0, impl="rbg"), x, emb, True)
  kernel = np.zeros((3, 3, 32, 32), np.float32)
  kernel[1, 1] = np.eye(32)
  v["params"]["conv2"]["kernel"] = kernel  # lets everything through
  rngs = {"dropout": jax.random.key(1, impl="rbg")}
  train = block.apply(v, x, emb, False, rngs=rngs) - x
  test = block.apply(v, x, emb, True) - x
  kept = np.abs(train) > 1e-6
  assert 0.4 < kept.mean() < 0.6
  np.testing.assert_allclose(train[kept], 2 * test[kept], atol=1e-5)


def test_remat_wraps_every_block_and_changes_nothing():
  x = images()
  v = variables(TINY)

  def run(unet):
    rngs = {"dropout": jax.random.key(2, impl="rbg")}
    f = lambda v: unet.apply(v, x, 3, deterministic=False, rngs=rngs)
    steps = jax.make_jaxpr(f)(v).eqns
    return quick_jit(f)(v), sum("prevent_cse" in step.params for step in steps)

  plain, none = run(TINY)
  remat, blocks = run(TINY.clone(remat=True))
  np.testing.assert_allclose(remat, plain, rtol=1e-4, atol=1e-4)
  assert none == 0
  assert blocks == 5 + 4  # residual blocks, attention


def test_bfloat16_computes_near_float32():
  x = images()
  v = variables(TINY)
  want = quick_jit(TINY.apply)(v, x, 3)
  got = quick_jit(TINY.clone(dtype=jnp.bfloat16).apply)(v, x, 3)
  assert got.dtype == jnp.float32
  assert 0 < jnp.linalg.norm(got - want) < 0.05 * jnp.linalg.norm(want)


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial"])
def test_half_precision_logits_and_parameters_are_float32(pool):
  classifier = CLASSIFIER.clone(pool=pool, dtype=jnp.float16)
  logits, v = jax.eval_shape(
    classifier.init_with_output, jax.random.key(0), images(16), 3
  )
  assert (logits.shape, logits.dtype) == ((2, 4), jnp.float32)
  assert {leaf.dtype for leaf in jax.tree.leaves(v)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
  ("network", "shape", "conditions", "message"),
  [
    (TINY, (8, 8, 3), {}, r"UNet needs x of shape \[B, H, W, C\]"),
    (TINY, (2, 4, 8, 3), {}, r"heights \[4\], so attention at \(8,\)"),
    (TINY.clone(channel_mult=(1, 2)), (2, 8, 7, 3), {}, "by 2, got 8 x 7"),
    (TINY.clone(num_heads=5), (2, 8, 8, 3), {}, "by its 5 heads, got 32"),
    (
      TINY.clone(num_head_channels=5),
      (2, 8, 8, 3),
      {},
      "heads of 5 channels and needs .* got 32",
    ),
    (TINY, (2, 8, 8, 3), {"y": 0}, "num_classes None needs no labels y"),
    (COND, (2, 8, 8, 3), {}, "num_classes 5 needs labels y"),
    (COND, (2, 8, 8, 3), {"y": jnp.zeros(3, int)}, r"y of shape \(2,\) or"),
    (UPSAMPLER, (2, 8, 8, 3), {}, "super_resolution True needs low_res"),
    (
      UPSAMPLER,
      (2, 8, 8, 3),
      {"low_res": jnp.zeros((1, 4, 4, 3))},
      r"with B and C of x \(2, 8, 8, 3\), got \(1, 4, 4, 3\)",
    ),
    (CLASSIFIER.clone(pool="max"), (2, 16, 16, 3), {}, "got 'max'"),
    (CLASSIFIER, (2, 4, 4, 3), {}, r"Classifier has feature maps of heights"),
  ],
)
def test_bad_input_is_one_sentence(network, shape, conditions, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros(shape), 0, **conditions
    )


def test_timestep_of_a_wrong_shape():
  with pytest.raises(ValueError, match=r"needs t of shape \(2,\) or \(\)"):
    TINY.init(jax.random.key(0), images(), jnp.zeros(3))
