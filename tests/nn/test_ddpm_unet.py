import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.ddpm_unet import NETWORKS, UNet

TINY = UNet(32, (1, 2), 1, attention_resolutions=(8,))
SMALLEST = UNet(32, (1,), 1, attention_resolutions=())


def shapes(unet, size, channels=3):
  x = jnp.zeros((1, size, size, channels))
  return jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(1))["params"]


def variables(unet, x):
  """Random parameters, none of them zero."""
  template = jax.eval_shape(unet.init, jax.random.key(0), x, 0)
  leaves, structure = jax.tree.flatten(template)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  return structure.unflatten(
    0.1 * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  )


def images(size=16, batch=2, channels=3):
  return jax.random.normal(jax.random.key(1), (batch, size, size, channels))


@pytest.mark.parametrize(
  ("name", "size", "published"),
  [
    ("cifar10", 32, 35_746_307),
    ("image256", 256, 113_673_219),
    ("lsun_bedroom_large", 256, 255_677_955),
    ("celeba64", 64, 78_700_803),
  ],
)
def test_parameter_count(name, size, published):
  leaves = jax.tree.leaves(shapes(NETWORKS[name], size))
  assert sum(leaf.size for leaf in leaves) == published


def test_scopes_follow_the_original():
  params = shapes(NETWORKS["cifar10"], 32)
  assert {"temb_dense0", "temb_dense1", "conv_in", "norm_out", "conv_out"} <= {
    *params
  }
  assert {k for k in params if "attn" in k} == {
    *("down_1_attn_0", "down_1_attn_1", "mid_attn_1"),
    *("up_1_attn_0", "up_1_attn_1", "up_1_attn_2"),
  }
  assert sum("block" in k for k in params) == 4 * 2 + 2 + 4 * 3
  block = jax.tree.map(lambda leaf: leaf.shape, params["up_3_block_2"])
  assert block["norm1"] == {"scale": (512,), "bias": (512,)}
  assert block["nin_shortcut"]["kernel"] == (512, 256)
  assert block["temb_proj"]["kernel"] == (512, 256)
  assert block["conv2"]["kernel"] == (3, 3, 256, 256)


@pytest.mark.slow
def test_starts_at_zero_with_fan_average_variance():
  x = images()
  params = jax.jit(TINY.init)(jax.random.key(0), x, 0)["params"]
  assert jnp.abs(TINY.apply({"params": params}, x, 0)).max() < 1e-3
  for zero in (params["mid_attn_1"]["proj_out"], params["conv_out"]):
    assert jnp.abs(zero["kernel"]).max() < 1e-5
  kernel = params["up_0_block_0"]["conv1"]["kernel"]  # 96 -> 32, 3 x 3
  bound = np.sqrt(3 / (9 * (96 + 32) / 2))
  assert 0.99 * bound < jnp.abs(kernel).max() <= bound
  assert not jnp.any(params["up_0_block_0"]["conv1"]["bias"])


@pytest.mark.parametrize("size", [(28, 28), (12, 20)])
def test_sizes_that_are_no_powers_of_two(size):
  unet = TINY.clone(attention_resolutions=(size[0] // 2,), out_channels=1)
  x = jnp.zeros((1, *size, 1))
  out, _ = jax.eval_shape(
    unet.init_with_output, jax.random.key(0), x, jnp.zeros(1)
  )
  assert out.shape == (1, *size, 1)


def test_timestep_shape_and_type_do_not_matter():
  x = images(8)
  v = variables(SMALLEST, x)
  apply = jax.jit(SMALLEST.apply)
  want = apply(v, x, jnp.array([7, 7]))
  for t in (jnp.float32(7), jnp.array([7.0, 7.0], jnp.bfloat16)):
    np.testing.assert_allclose(apply(v, x, t), want, rtol=1e-5, atol=1e-6)
  assert not np.allclose(apply(v, x, jnp.float32(8)), want)


def test_dropout_needs_its_key_and_acts_only_in_training():
  x = images(8)
  v = variables(SMALLEST, x)
  apply = jax.jit(SMALLEST.apply, static_argnames="deterministic")
  keys = [{"dropout": jax.random.key(i)} for i in (0, 1)]
  a, b = (apply(v, x, 1, deterministic=False, rngs=key) for key in keys)
  assert not np.allclose(a, b)
  np.testing.assert_array_equal(apply(v, x, 1, rngs=keys[0]), apply(v, x, 1))


@pytest.mark.slow
def test_remat_changes_neither_parameters_nor_gradients():
  x = images(8)
  unet = TINY.clone(attention_resolutions=(4,))
  v = variables(unet, x)

  def gradient(unet):
    def loss(v):
      rngs = {"dropout": jax.random.key(2)}
      return jnp.sum(unet.apply(v, x, 3, deterministic=False, rngs=rngs) ** 2)

    return jax.jit(jax.grad(loss))(v)

  plain, remat = gradient(unet), gradient(unet.clone(remat=True))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    *(plain, remat),
  )


@pytest.mark.slow
def test_bfloat16_computes_near_float32():
  x = images()
  v = variables(TINY, x)
  want = jax.jit(TINY.apply)(v, x, 3)
  got = jax.jit(TINY.clone(dtype=jnp.bfloat16).apply)(v, x, 3)
  assert got.dtype == jnp.float32
  assert jnp.linalg.norm(got - want) < 0.05 * jnp.linalg.norm(want)


def test_patches_shrink_the_grid():
  unet = TINY.clone(patch_size=2, attention_resolutions=(4,))
  params = shapes(unet, 16)
  assert params["conv_in"]["kernel"].shape == (3, 3, 12, 32)
  assert params["conv_out"]["kernel"].shape == (3, 3, 32, 12)
  x = images()
  out, _ = jax.eval_shape(unet.init_with_output, jax.random.key(0), x, 0)
  assert out.shape == x.shape


@pytest.mark.parametrize(
  ("shape", "t", "message"),
  [
    ((2, 15, 16, 3), (2,), "divisible by 2, got 15 x 16"),
    ((2, 20, 20, 3), (2,), r"heights \[20, 10\], so attention at \(8,\)"),
    ((16, 16, 3), (2,), r"shape \[B, H, W, C\]"),
    ((2, 16, 16, 3), (3,), r"needs t of shape \(2,\)"),
  ],
)
def test_bad_input_is_one_sentence(shape, t, message):
  with pytest.raises(ValueError, match=message):
    TINY.init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(t))
