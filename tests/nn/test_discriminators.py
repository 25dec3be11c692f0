import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import quick_jit

from jaxgen.nn.batch_norm import BatchNorm
from jaxgen.nn.discriminators import NLayerDiscriminator

TINY = NLayerDiscriminator(channels=4)


def test_parameter_count():
  """pix2pix prints 2.765M for its three layers on images of three colours."""
  counts = []
  for num_layers in (3, 2):
    network = NLayerDiscriminator(num_layers=num_layers)
    x = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    counts.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
  # Kernels of 16 weights: 3 -> 64 -> 128 -> 256 -> 512 -> 1 channels; biases
  # at both ends, a scale and a bias of each normalisation.
  widths = 3 * 64 + 64 * 128 + 128 * 256
  three = 16 * (widths + 256 * 512 + 512) + 64 + 1 + 2 * (128 + 256 + 512)
  assert counts == [three, 16 * (widths + 256) + 64 + 1 + 2 * (128 + 256)]
  assert three == 2_765_633


@pytest.mark.parametrize(("num_layers", "patch"), [(3, 70), (2, 34)])
def test_every_logit_judges_a_patch(num_layers, patch):
  """70 x 70 pixels with three layers: Isola et al. 2017, App. 6.1.2."""
  network = TINY.clone(num_layers=num_layers)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 96, 96, 3), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  v = jax.tree.map(lambda leaf: np.abs(rng.standard_normal(leaf.shape)), shapes)

  def logit(x):
    out = network.apply(v, x, train=False)
    return out[0, out.shape[1] // 2, out.shape[2] // 2, 0]

  seen = np.any(quick_jit(jax.grad(logit))(x)[0] != 0, axis=-1)
  rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
  assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == patch


def test_starts_as_the_original():
  x = jnp.zeros((1, 32, 32, 3))

  def init(key):
    params = TINY.clone(channels=32).init(key, x)["params"]
    return {k: params[k] for k in ("conv_0", "conv_1", "conv_3", "norm_3")}

  params = quick_jit(init)(jax.random.key(0))
  for name in ("conv_1", "conv_3"):
    assert np.std(params[name]["kernel"]) == pytest.approx(0.02, rel=0.05)
    assert "bias" not in params[name]
  assert 0 < np.abs(params["conv_0"]["bias"]).max() <= 48**-0.5
  scale = params["norm_3"]["scale"]
  assert np.mean(scale) == pytest.approx(1, abs=0.01)
  assert np.std(scale) == pytest.approx(0.02, rel=0.2)
  np.testing.assert_array_equal(params["norm_3"]["bias"], 0)


def test_statistics_move_by_a_tenth_and_are_unbiased():
  x = np.random.default_rng(0).normal(3, 2, (2, 2, 3, 4)).astype(np.float32)
  v = BatchNorm().init(jax.random.key(0), x, train=True)
  start = v["batch_stats"]
  np.testing.assert_array_equal(
    [start["mean"], start["var"]], [[0] * 4, [1] * 4]
  )
  v["params"] = {"scale": jnp.full(4, 2.0), "bias": jnp.full(4, 5.0)}
  y, updates = BatchNorm().apply(v, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(y.mean((0, 1, 2)), 5, rtol=1e-5)
  np.testing.assert_allclose(y.std((0, 1, 2)), 2, rtol=1e-4)
  flat = x.reshape(-1, 4).astype(np.float64)
  stats = updates["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.1 * flat.mean(0), rtol=1e-5)
  want = 0.9 + 0.1 * flat.var(0, ddof=1)
  np.testing.assert_allclose(stats["var"], want, rtol=1e-5)
  # Without the collection being mutable, as for the other network's step.
  same = BatchNorm().apply(v, x, train=True)
  np.testing.assert_array_equal(same, y)
  tested = BatchNorm().apply({**v, **updates}, x, train=False)
  z = (flat - np.float64(stats["mean"])) / np.sqrt(stats["var"] + 1e-5)
  np.testing.assert_allclose(tested.reshape(-1, 4), 2 * z + 5, rtol=1e-4)


def test_half_precision_gives_float32_logits_and_statistics():
  network = TINY.clone(dtype=jnp.bfloat16)
  x = jnp.zeros((2, 32, 40, 3))
  logits, v = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
  assert (logits.shape, logits.dtype) == ((2, 2, 3, 1), jnp.float32)
  assert {leaf.dtype for leaf in jax.tree.leaves(v)} == {jnp.dtype("float32")}


def test_small_images_are_one_sentence():
  init = lambda x: jax.eval_shape(TINY.init, jax.random.key(0), x)
  init(jnp.zeros((1, 24, 24, 3)))
  with pytest.raises(ValueError, match=r"3 layers .* least 24, got \(1, 23, 2"):
    init(jnp.zeros((1, 23, 24, 3)))
