import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import quick_jit

from jaxgen.nn import posteriors
from jaxgen.nn.autoencoder import (
  KL_AUTOENCODERS,
  VQ_AUTOENCODERS,
  AutoencoderKL,
  VQAutoencoder,
  downsampling_factor,
  last_convolution,
)
from jaxgen.nn.autoencoder_blocks import Downsample

TINY = AutoencoderKL(
  2, (1, 1), attention_resolutions=(128,), channels=32, num_res_blocks=1
)
TINY_VQ = VQAutoencoder(7, 2, (1, 1), channels=32, num_res_blocks=1)


def shapes(network, size=16):
  x = jnp.zeros((1, size, size, 3))
  return jax.eval_shape(network.init, jax.random.key(0), x)["params"]


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def variables(network):
  """Random parameters, none of them zero."""
  leaves, structure = jax.tree.flatten(shapes(network))
  rng = np.random.default_rng(0)
  draw = lambda shape: 0.1 * rng.standard_normal(shape, np.float32)
  return {"params": structure.unflatten(draw(leaf.shape) for leaf in leaves)}


def images(height=16, width=16):
  rng = np.random.default_rng(1)
  return rng.standard_normal((2, height, width, 3), np.float32)


# Counted in CompVis' PyTorch modules, built with the configurations of their
# release, without the parts that only training has.
@pytest.mark.parametrize(
  ("name", "factor", "original"),
  [
    ("kl-f4", 4, 55_312_063),
    ("kl-f8", 8, 83_653_863),
    ("kl-f16", 16, 69_610_963),
    ("kl-f32", 32, 103_880_131),
    ("vq-f4", 4, 55_322_782),
    ("vq-f4-noattn", 4, 53_219_486),
    ("vq-f8", 8, 67_717_295),
    ("vq-f8-n256", 8, 67_652_783),
    ("vq-f16", 16, 69_593_371),
  ],
)
def test_parameter_count(name, factor, original):
  network = (KL_AUTOENCODERS | VQ_AUTOENCODERS)[name]
  params = shapes(network, size=factor)
  assert count(params) == original
  assert downsampling_factor(network) == factor
  if name == "kl-f8":
    assert count(params["encoder"]) == 34_163_592
    assert count(params["decoder"]) == 49_490_179


@pytest.mark.parametrize("levels", range(1, 7))
def test_any_factor_is_a_number_of_levels(levels):
  network = TINY.clone(channel_mult=(1,) * levels, attention_resolutions=())
  x = jnp.zeros((1, 32, 64, 3))
  (x_hat, posterior), _ = jax.eval_shape(
    network.init_with_output, jax.random.key(0), x
  )
  f = 2 ** (levels - 1)
  assert posterior.mean.shape == (1, 32 // f, 64 // f, 2)
  assert x_hat.shape == x.shape


def test_attention_is_at_levels_whatever_the_image():
  """As in the original, whose resolutions are those of 256 x 256 images."""
  for size in (16, 64):
    params = shapes(TINY, size)
    assert "down_1_attn_0" in params["encoder"]
    assert "up_1_attn_1" in params["decoder"]
    assert "down_0_attn_0" not in params["encoder"]
  without = shapes(TINY.clone(mid_attention=False))
  assert "mid_attn_1" not in without["encoder"].keys() | without["decoder"]


def test_strided_convolution_is_padded_below_and_right():
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[0, 0], kernel[2, 0] = 1.0, 10.0  # a row and the one two below
  v = {"params": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
  x = np.arange(1.0, 5.0).reshape(1, 4, 1, 1) * np.ones((1, 1, 2, 1))
  out = Downsample().apply(v, x)
  np.testing.assert_array_equal(out.ravel(), [31.0, 3.0])


def test_starts_as_pytorch_does():
  def init(key):
    params = TINY.init(key, images())["params"]
    return (
      params["encoder"]["mid_block_1"]["conv2"],
      params["encoder"]["down_0_downsample"],
      params["decoder"]["mid_attn_1"]["proj_out"],
      params["quant_conv"],
    )

  layers = quick_jit(init)(jax.random.key(0))
  for layer, fan_in in zip(layers, (9 * 32, 9 * 32, 32, 4), strict=True):
    for leaf in layer.values():  # uniform: Kaiming's with a = sqrt(5)
      assert np.abs(leaf).max() <= fan_in**-0.5
    if fan_in > 4:
      std = np.std(layer["kernel"])
      assert std == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


def test_reconstructs_the_mode_or_a_sample():
  v, x, key = variables(TINY), images(), jax.random.key(3)

  def run(v, x):
    posterior = TINY.apply(v, x, method="encode")
    z = posteriors.sample(key, posterior)
    decode = lambda z: TINY.apply(v, z, method="decode")
    return (
      (decode(posterior.mean), decode(z)),
      (TINY.apply(v, x)[0], TINY.apply(v, x, key)[0]),
    )

  wanted, got = quick_jit(run)(v, x)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    wanted,
    got,
  )
  assert not np.allclose(*got)


def test_quantiser_belongs_to_the_decoder():
  v, x = variables(TINY_VQ), images()
  call = lambda method: lambda *args: TINY_VQ.apply(v, *args, method=method)

  def run(x):
    z = call("encode")(x)
    q = call("quantize")(z)
    return (
      z,
      q,
      [
        call("decode")(z),
        call("decode_code")(q.indices),
        call("decode_quantized")(q.z_q),
        TINY_VQ.apply(v, x)[0],
        last_convolution(v["params"], call("decode_features")(q.z_q)),
        call("decode_quantized")(z),
      ],
    )

  z, q, outs = quick_jit(run)(x)
  assert not np.allclose(z, q.z_q, atol=1e-3)
  codes = v["params"]["quantizer"]["embedding"][np.array(q.indices)]
  np.testing.assert_allclose(q.z_q, codes, rtol=1e-5, atol=1e-6)
  for out in outs[1:5]:
    np.testing.assert_allclose(out, outs[0], rtol=1e-4, atol=1e-4)
  assert not np.allclose(outs[5], outs[0], atol=1e-3)


def test_remat_wraps_every_block_and_changes_nothing():
  v, x = variables(TINY), images()

  def run(network):
    f = lambda v: network.apply(v, x)[0]
    steps = jax.make_jaxpr(f)(v).eqns
    return quick_jit(f)(v), sum("prevent_cse" in step.params for step in steps)

  plain, none = run(TINY)
  remat, blocks = run(TINY.clone(remat=True))
  np.testing.assert_allclose(remat, plain, rtol=1e-4, atol=1e-4)
  assert none == 0
  assert blocks == (2 + 2) + (4 + 2) + 2 + 3  # residual blocks, attention


@pytest.mark.parametrize("network", [TINY, TINY_VQ], ids=["kl", "vq"])
def test_half_precision_computes_with_float32_latents(network):
  half = network.clone(dtype=jnp.bfloat16)
  out, v = jax.eval_shape(half.init_with_output, jax.random.key(0), images())
  floats = [x for x in jax.tree.leaves((out, v)) if x.dtype != jnp.int32]
  assert {x.dtype for x in floats} == {jnp.dtype("float32")}


def test_bfloat16_computes_near_float32():
  v, x = variables(TINY), images()
  half = TINY.clone(dtype=jnp.bfloat16)

  def run_half(v):
    x_hat, posterior = half.apply(v, x)
    h = half.apply(v, posterior.mean, method="decode_features")
    return x_hat, last_convolution(v["params"], h)

  want = quick_jit(lambda v: TINY.apply(v, x)[0])(v)
  got, in_parts = quick_jit(run_half)(v)
  assert 0 < jnp.linalg.norm(got - want) < 0.05 * jnp.linalg.norm(want)
  assert got.dtype == in_parts.dtype == jnp.float32
  np.testing.assert_allclose(in_parts, got, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
  ("network", "method", "shape", "message"),
  [
    (TINY, "encode", (8, 8, 3), r"AutoencoderKL needs x of shape \[B, H"),
    (TINY_VQ, "encode", (2, 8, 7, 3), "levels needs .* by 2, got 8 x 7"),
    (TINY, "decode", (2, 8, 8, 3), r"AutoencoderKL needs z .* w, 2\], got"),
    (TINY_VQ, "decode", (2, 8, 8, 3), r"VQAutoencoder needs z .* w, 2\]"),
    (
      TINY.clone(attention_resolutions=(100,)),
      "encode",
      (2, 8, 8, 3),
      r"heights \[256, 128\] at resolution 256, so attention at \(100,\)",
    ),
  ],
)
def test_bad_input_is_one_sentence(network, method, shape, message):
  init = lambda key, x: network.init(key, x, method=method)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))
