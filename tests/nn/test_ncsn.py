import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.ncsn import NCSN, NETWORKS

TINY = NCSN(4, (1, 2, 2))
V2 = TINY.clone(conditional=False)

# Counted in the original code with its published configurations.
COUNTS = {
  "ncsn/mnist": 7_638_657,
  "ncsn/celeba": 30_117_635,
  "ncsn/cifar10": 30_117_635,
  "ncsnv2/cifar10": 29_694_083,
  "ncsnv2/celeba": 29_694_083,
  "ncsnv2/church": 83_445_379,
  "ncsnv2/bedroom": 83_445_379,
  "ncsnv2/tower": 83_445_379,
  "ncsnv2/ffhq": 94_132_611,
}


def variables(network, x):
  """Random parameters, none of them zero."""
  template = jax.eval_shape(network.init, jax.random.key(0), x, 0)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), template
  )


def images(size=8, batch=2, channels=3):
  return jax.random.normal(jax.random.key(1), (batch, size, size, channels))


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_count(name):
  x = jnp.zeros((1, 32, 32, 1 if name == "ncsn/mnist" else 3))
  network = NETWORKS[name]
  template = jax.eval_shape(network.init, jax.random.key(0), x, 0)
  count = sum(leaf.size for leaf in jax.tree.leaves(template))
  assert count == COUNTS[name]


def test_levels_are_the_papers():
  """NCSN section 5, NCSNv2 App. B: first and number of noise levels."""
  levels = {n: (u.sigma_max, u.num_scales) for n, u in NETWORKS.items()}
  assert levels["ncsn/cifar10"] == (1, 10)
  assert levels["ncsnv2/cifar10"] == (50, 232)
  assert levels["ncsnv2/celeba"] == (90, 500)
  assert levels["ncsnv2/church"] == (140, 788)
  assert levels["ncsnv2/bedroom"] == levels["ncsnv2/tower"] == (190, 1086)
  assert levels["ncsnv2/ffhq"] == (348, 2311)


def test_the_unconditional_score_is_inverse_to_sigma():
  """sigma_i s(x, i) is one function of x (NCSNv2, section 3.3)."""
  x = images()
  v = variables(V2, x)
  run = jax.jit(V2.apply)
  for label, sigma in ((4, 0.01 ** (4 / 9)), (9, 0.01)):
    np.testing.assert_allclose(
      sigma * run(v, x, label), run(v, x, 0), rtol=1e-5, atol=1e-6
    )


def test_each_example_has_its_own_level():
  x = images()
  v = variables(TINY, x)
  run = jax.jit(TINY.apply)
  a, b, mixed = (run(v, x, jnp.array(t)) for t in ([2, 2], [7, 7], [2, 7]))
  np.testing.assert_allclose(mixed[0], a[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(mixed[1], b[1], rtol=1e-5, atol=1e-6)
  assert not np.allclose(mixed[1], a[1], rtol=1e-2)


def test_remat_wraps_the_blocks_and_keeps_the_parameters():
  x = images()
  remat = TINY.clone(remat=True)
  template = jax.eval_shape(remat.init, jax.random.key(0), x, 0)
  plain = jax.eval_shape(TINY.init, jax.random.key(0), x, 0)
  assert jax.tree.structure(template) == jax.tree.structure(plain)
  gradient = jax.grad(lambda v: remat.apply(v, x, 3).sum())
  equations = jax.make_jaxpr(gradient)(template).eqns
  # of three stages with two blocks and a refinement each
  assert sum("remat" in str(e.primitive) for e in equations) == 9


def test_bfloat16_computes_near_float32():
  x = images()
  network = V2.clone(centered=True)
  v = variables(network, x)
  want = jax.jit(V2.apply)(v, (x + 1) / 2, 0)  # V2 maps it back
  got = jax.jit(network.clone(dtype=jnp.bfloat16).apply)(v, x, 0)
  assert got.dtype == jnp.float32
  assert jnp.linalg.norm(got - want) < 0.1 * jnp.linalg.norm(want)


@pytest.mark.parametrize(
  ("mult", "shape", "t", "message"),
  [
    ((1, 2), (2, 8, 8, 3), (2,), "at least 3 stages, got 2"),
    ((1, 2, 2, 2), (2, 9, 8, 3), (2,), "divisible by 2, got 9 x 8"),
    ((1, 2, 2), (8, 8, 3), (2,), r"shape \[B, H, W, C\]"),
    ((1, 2, 2), (2, 8, 8, 3), (3,), r"needs time_cond of shape \(2,\)"),
  ],
)
def test_bad_input_is_one_sentence(mult, shape, t, message):
  network = TINY.clone(channel_mult=mult)
  with pytest.raises(ValueError, match=message):
    network.init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(t))
