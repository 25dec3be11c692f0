import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import quick_jit

from jaxgen.nn.lpips import LPIPS, unit_length


def shapes():
  x = jnp.zeros((1, 16, 16, 3))
  return jax.eval_shape(LPIPS().init, jax.random.key(0), x, x)["params"]


@pytest.fixture
def params():
  rng = np.random.default_rng(0)
  leaves, structure = jax.tree.flatten(shapes())
  draw = lambda shape: (
    rng.standard_normal(shape, np.float32)
    * np.float32(np.prod(shape[:-1]) ** -0.5)
  )
  params = structure.unflatten(draw(leaf.shape) for leaf in leaves)
  for k in range(5):
    params[f"lin{k}"] = np.abs(params[f"lin{k}"])
  return params


def test_parameter_count():
  """torchvision's VGG16 has 138,357,544, of which 123,642,856 are dense."""
  params = shapes()
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(params["vgg"]) == 138_357_544 - 123_642_856
  lins = {name: leaf for name, leaf in params.items() if name != "vgg"}
  assert count(lins) == 64 + 128 + 256 + 512 + 512


def test_is_a_distance_per_image(params):
  apply = lambda params, x, y: LPIPS().apply({"params": params}, x, y)
  run = quick_jit(apply)
  rng = np.random.default_rng(1)
  x, y = rng.uniform(-1, 1, (2, 3, 16, 16, 3)).astype(np.float32)
  y[1] = x[1]
  forth, back = run(params, x, y), run(params, y, x)
  assert forth.shape == (3,)
  np.testing.assert_allclose(forth, back, rtol=1e-5)
  assert forth[1] == 0
  assert min(forth[0], forth[2]) > 0
  # Each image is compared with its own partner.
  turned = run(params, x[::-1], y[::-1])
  np.testing.assert_allclose(turned, forth[::-1], rtol=1e-4)


def test_silent_activations_have_a_gradient():
  """Where all channels are 0, the norm's derivative would be infinite."""
  f = lambda x: unit_length(x).sum()
  value, slope = jax.value_and_grad(f)(jnp.array([[0.0, 0.0], [3.0, 4.0]]))
  np.testing.assert_allclose(value, 0.6 + 0.8, rtol=1e-6)
  # Of (x + y) / sqrt(x^2 + y^2): y (y - x) / r^3 and x (x - y) / r^3.
  np.testing.assert_allclose(slope[1], [4 / 125, -3 / 125], rtol=1e-5)
  assert np.isfinite(slope).all()


@pytest.mark.parametrize(
  ("a", "b"),
  [
    ((1, 16, 16, 3), (2, 16, 16, 3)),
    ((1, 15, 16, 3), (1, 15, 16, 3)),
    ((1, 16, 16, 1), (1, 16, 16, 1)),
  ],
)
def test_bad_shapes_are_one_sentence(a, b):
  with pytest.raises(ValueError, match=r"LPIPS needs two batches .* 3\], H "):
    LPIPS().init(jax.random.key(0), jnp.zeros(a), jnp.zeros(b))
