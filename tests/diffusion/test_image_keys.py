"""One key per image: the same image in any batch and on any devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxgen.diffusion as jd
from jaxgen import random

DISCRETE = jd.DiscreteProcess.from_betas(jd.scaled_linear_betas())
SMOOTH = jd.InterpolatedProcess(DISCRETE)
KARRAS = jd.KarrasProcess()
SHAPE = (4, 3, 2)
# Every place where a sampler draws noise; those that draw none have only that
# of their start point.
SAMPLERS = {
  "ancestral": (DISCRETE, jd.ancestral),
  "ddim": (DISCRETE, functools.partial(jd.ddim, eta=0.5)),
  "euler-a": (SMOOTH, functools.partial(jd.ddim, eta=1.0)),
  "reverse-diffusion": (DISCRETE, jd.reverse_diffusion),
  "edm-heun": (KARRAS, functools.partial(jd.edm_heun, churn=jd.Churn(0.3))),
  "corrected": (
    DISCRETE,
    lambda *model: jd.predictor_corrector(
      jd.ancestral(*model), jd.annealed_langevin(*model, 0.1)
    ),
  ),
  "inpaint": (
    DISCRETE,
    lambda *model: jd.inpaint(
      model[0], jd.ddim(*model), jnp.ones((1, *SHAPE)), jnp.ones((1, 4, 1, 1))
    ),
  ),
}


def grid(process):
  if process is KARRAS:
    return jd.karras_times(4)
  if process is SMOOTH:
    return jd.linspace_times(1000, 4)
  return jd.sd1_times(4)


@jax.jit
def draw(keys):
  """{name: images}, and their noise."""
  images = {"noise": random.normal(keys, SHAPE)}
  for name, (process, make) in SAMPLERS.items():
    denoiser = jd.x_0_denoiser(process, lambda x, t: jnp.tanh(0.3 * x))
    x = jd.prior(process, keys, (len(keys), *SHAPE))
    images[name] = jd.sample(keys, x, grid(process), make(process, denoiser))
  x_0 = jnp.full((len(keys), *SHAPE), 0.5)
  images["image-to-image"], _ = jd.image_to_image(
    DISCRETE, keys, x_0, jd.sd1_times(4), 0.5
  )
  return images


@pytest.fixture(scope="module")
def whole():
  return jax.tree.map(
    np.asarray, draw(random.image_keys(jax.random.key(0), 0, 8))
  )


def assert_same(images, whole, first):
  """Noise bit for bit, images but for what a compiler may reorder.

  Which is multiplied by sigma where EDM begins, 80.
  """
  for name, want in whole.items():
    want = want[first : first + len(images[name])]
    if name == "noise":
      np.testing.assert_array_equal(images[name], want)
    np.testing.assert_allclose(
      images[name],
      want,
      rtol=1e-5,
      atol=2e-4 if name == "edm-heun" else 2e-5,
      err_msg=name,
    )


@pytest.mark.parametrize(
  ("first", "n"), [(5, 1), pytest.param(2, 3, marks=pytest.mark.slow)]
)
def test_an_image_does_not_depend_on_its_batch(whole, first, n):
  keys = random.image_keys(jax.random.key(0), first, n)
  assert_same(draw(keys), whole, first)


def test_an_image_does_not_depend_on_the_devices(whole):
  mesh = jax.make_mesh((8,), ("data",))
  keys = random.image_keys(jax.random.key(0), 0, 8)
  keys = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("data")))
  images = draw(keys)
  assert len(images["ddim"].sharding.device_set) == 8
  assert_same(images, whole, 0)


def test_images_differ(whole):
  for name, images in whole.items():
    flat = images.reshape(8, -1)
    assert np.unique(flat, axis=0).shape == flat.shape, name
