import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.ncsnpp import NETWORKS, NCSNpp
from jaxgen.nn.ncsnpp_blocks import FourierEmbedding

TINY = NCSNpp(16, (1, 2), 1, (4,))
FLAT = NCSNpp(
  16, (1,), 1, ()
)  # quicker to compile, where resizing is no matter

# Counted in the PyTorch code with the configurations of its release;
# the unconditional network and its sub-VP copies exist in JAX alone.
COUNTS = {
  (32, 35_218_947): [
    "ve/cifar10_ddpm",
    "vp/cifar10_ddpm",
    "vp/cifar10_ddpm_continuous",
    "subvp/cifar10_ddpm_continuous",
  ],
  (32, 61_804_419): [
    "vp/cifar10_ddpmpp",
    "vp/cifar10_ddpmpp_continuous",
    "subvp/cifar10_ddpmpp_continuous",
  ],
  (32, 62_693_251): [
    "ve/cifar10_ncsnpp",
    "ve/celeba_ncsnpp",
    "vp/cifar10_ncsnpp",
    "vp/cifar10_ncsnpp_continuous",
    "subvp/cifar10_ncsnpp_continuous",
  ],
  (32, 62_758_915): ["ve/cifar10_ncsnpp_continuous"],
  (32, 106_632_579): [
    "vp/cifar10_ddpmpp_deep_continuous",
    "subvp/cifar10_ddpmpp_deep_continuous",
  ],
  (32, 107_521_411): [
    "vp/cifar10_ncsnpp_deep_continuous",
    "subvp/cifar10_ncsnpp_deep_continuous",
  ],
  (32, 107_587_075): ["ve/cifar10_ncsnpp_deep_continuous"],
  (256, 65_574_549): [
    "ve/bedroom_ncsnpp_continuous",
    "ve/church_ncsnpp_continuous",
    "ve/celebahq_256_ncsnpp_continuous",
    "ve/ffhq_256_ncsnpp_continuous",
  ],
  (256, 111_569_923): ["vp/bedroom_ddpm", "vp/celebahq_ddpm", "vp/church_ddpm"],
  (1024, 105_785_896): [
    "ve/celebahq_ncsnpp_continuous",
    "ve/ffhq_1024_ncsnpp_continuous",
  ],
}


def shapes(unet, size, channels=3):
  x = jnp.zeros((1, size, size, channels))
  return jax.eval_shape(unet.init, jax.random.key(0), x, jnp.ones(1))["params"]


def variables(unet, x):
  """Random parameters, none of them zero."""
  template = jax.eval_shape(unet.init, jax.random.key(0), x, 1)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), template
  )


def images(size=8, batch=2, channels=3):
  return jax.random.normal(jax.random.key(1), (batch, size, size, channels))


def test_parameter_counts():
  counted = {}
  for (size, count), names in COUNTS.items():
    # data and noise levels have no parameters
    levels = {"centered": False, "scale_by_sigma": False, "sigma_max": 1.0}
    for unet in {NETWORKS[name].clone(**levels) for name in names}:
      leaves = jax.tree.leaves(shapes(unet, size))
      assert sum(leaf.size for leaf in leaves) == count, names
    counted |= dict.fromkeys(names)
  assert {*NETWORKS} - {*counted} == {"vp/cifar10_ddpm_unconditional"}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_output_has_the_channels_of_the_input(channels):
  unet = TINY.clone(attention_resolutions=(14,))
  x = jnp.zeros((1, 28, 20, channels))
  out, _ = jax.eval_shape(unet.init_with_output, jax.random.key(0), x, 1.0)
  assert out.shape == x.shape


def test_noise_level_shape_and_type_do_not_matter():
  unet = FLAT.clone(embedding="positional")
  x = images(4)
  v = variables(unet, x)
  run = jax.jit(unet.apply)
  want = run(v, x, jnp.array([7, 7]))
  t = jnp.bfloat16(7)
  np.testing.assert_allclose(run(v, x, t), want, rtol=1e-5)
  assert not np.allclose(run(v, x, jnp.bfloat16(8)), want)


def test_the_output_is_divided_by_sigma():
  """Where nothing else depends on the label."""
  unet = FLAT.clone(embedding="positional", conditional=False)
  x = images(4)
  v = variables(unet, x)
  run = jax.jit(unet.apply)
  outputs = [run(v, x, label) for label in (0, 333, 999)]
  sigmas = [50.0, 50.0 * (0.01 / 50.0) ** (1 / 3), 0.01]
  for output, sigma in zip(outputs, sigmas, strict=True):
    np.testing.assert_allclose(
      output * sigma, outputs[0] * 50.0, rtol=1e-4, atol=1e-5
    )


def test_fourier_frequencies_have_no_gradient():
  module = FourierEmbedding(4)
  sigma = jnp.array([0.3, 2.0])
  v = module.init(jax.random.key(0), sigma)
  assert module.apply(v, sigma).shape == (2, 8)
  gradient = jax.grad(lambda v: module.apply(v, sigma).sum())(v)
  assert not jnp.any(gradient["params"]["w"])


def test_dropout_needs_its_key_and_acts_only_in_training():
  x = images(4)
  v = variables(FLAT, x)
  run = jax.jit(FLAT.apply, static_argnames="deterministic")
  keys = [{"dropout": jax.random.key(i)} for i in (0, 1)]
  a, b = (run(v, x, 1.0, deterministic=False, rngs=key) for key in keys)
  assert not np.allclose(a, b)
  np.testing.assert_array_equal(run(v, x, 1.0, rngs=keys[0]), run(v, x, 1.0))


def test_remat_wraps_the_blocks_and_keeps_the_parameters():
  x = images()
  remat = TINY.clone(remat=True)
  assert jax.tree.structure(shapes(remat, 8)) == jax.tree.structure(
    shapes(TINY, 8)
  )

  def loss(params):
    rngs = {"dropout": jax.random.key(2)}
    return remat.apply({"params": params}, x, 1.0, False, rngs=rngs).sum()

  equations = jax.make_jaxpr(jax.grad(loss))(shapes(remat, 8)).eqns
  # 2 + 4 blocks of the levels, 2 that resample, 2 + 1 in the middle and the
  # attention on both ways, once in the backward pass
  assert sum("remat" in str(e.primitive) for e in equations) == 13


def test_bfloat16_computes_near_float32():
  x = images(4)
  unet = FLAT.clone(progressive="output_skip")
  v = variables(unet, x)
  want = jax.jit(unet.apply)(v, x, 3.0)
  got = jax.jit(unet.clone(dtype=jnp.bfloat16).apply)(v, x, 3.0)
  assert got.dtype == jnp.float32
  assert jnp.linalg.norm(got - want) < 0.05 * jnp.linalg.norm(want)


@pytest.mark.parametrize(
  ("options", "shape", "t", "message"),
  [
    ({}, (2, 15, 16, 3), (2,), "divisible by 2, got 15 x 16"),
    ({}, (2, 20, 20, 3), (2,), r"heights \[20, 10\], so attention at \(4,\)"),
    ({}, (16, 16, 3), (2,), r"shape \[B, H, W, C\]"),
    ({}, (2, 16, 16, 3), (3,), r"needs time_cond of shape \(2,\)"),
    (
      {"progressive": "skip"},
      *((2, 8, 8, 3), (2,)),
      "progressive is one of none, output_skip, residual, got 'skip'",
    ),
  ],
)
def test_bad_input_is_one_sentence(options, shape, t, message):
  with pytest.raises(ValueError, match=message):
    TINY.clone(**options).init(jax.random.key(0), jnp.zeros(shape), jnp.ones(t))


@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_conditions_are_added_to_the_noise_embedding(embedding):
  """v = sqrt(n) K[y] + b + K' a: the same as v W of the next layer's bias."""
  told = FLAT.clone(embedding=embedding, num_classes=5, augment_dim=9)
  plain = FLAT.clone(embedding=embedding)
  x, t = images(), jnp.array([0.3, 2.0])
  labels, changes = jnp.array([3, 3]), jnp.full((2, 9), 0.4)
  init = lambda key: told.init(key, x, t, labels=labels)
  template = jax.eval_shape(init, jax.random.key(0))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), template
  )["params"]
  width = 32 if embedding == "fourier" else 16
  assert params["temb_label"]["kernel"].shape == (5, width)
  assert {k: v.shape for k, v in params["temb_augment"].items()} == {
    "kernel": (9, width)
  }
  v = 5**0.5 * params["temb_label"]["kernel"][3] + params["temb_label"]["bias"]
  rest = {
    k: p for k, p in params.items() if k not in ("temb_label", "temb_augment")
  }
  told_apply, plain_apply = jax.jit(told.apply), jax.jit(plain.apply)
  found = told_apply({"params": params}, x, t, labels=labels)
  zeros = told_apply(
    {"params": params}, x, t, labels=labels, augment=jnp.zeros((2, 9))
  )
  np.testing.assert_allclose(found, zeros, rtol=1e-6, atol=1e-7)
  for augment, more in (
    (None, 0),
    (changes, 0.4 * params["temb_augment"]["kernel"].sum(0)),
  ):
    first = rest["temb_dense0"]
    bias = first["bias"] + (v + more) @ first["kernel"]
    moved = rest | {"temb_dense0": first | {"bias": bias}}
    np.testing.assert_allclose(
      told_apply({"params": params}, x, t, labels=labels, augment=augment),
      plain_apply({"params": moved}, x, t),
      rtol=1e-4,
      atol=1e-5,
    )


def test_labels_that_do_not_fit_are_one_sentence():
  x = images()
  with pytest.raises(ValueError, match="of 5 classes got none as labels"):
    FLAT.clone(num_classes=5).init(jax.random.key(0), x, 1)
  with pytest.raises(ValueError, match="of 0 classes got some as labels"):
    FLAT.init(jax.random.key(0), x, 1, labels=jnp.zeros(2, int))
  with pytest.raises(ValueError, match="needs 0 augmentation labels, got 9"):
    FLAT.init(jax.random.key(0), x, 1, augment=jnp.zeros((2, 9)))
