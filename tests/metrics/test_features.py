import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from random_inception import inception_state, random_images

from jaxgen.convert.state import write_safetensors
from jaxgen.metrics import features


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "w.safetensors"
  write_safetensors(path, inception_state())
  return path


def test_an_extractor_says_what_it_is(weights):
  extractor = features.inception(weights, "clean", jnp.bfloat16)
  assert extractor.name == "inception-2015"
  assert extractor.resize == "clean"
  digest = hashlib.sha256(weights.read_bytes()).hexdigest()
  assert extractor.weights_hash == digest[:16]
  found = jax.eval_shape(extractor.apply, random_images((5, 28, 28, 1), 0))
  assert found.pool.shape == (5, 2048)
  assert found.spatial.shape == (5, 2023)
  assert found.logits.shape == (5, 1008)
  assert {x.dtype for x in found} == {jnp.dtype("float32")}


def test_the_weights_are_no_constants(weights):
  apply = features.inception(weights).apply
  images = random_images((1, 8, 8, 3), 0)
  text = jax.jit(lambda apply, x: apply(x)).lower(apply, images).as_text()
  assert len(text) < 2_000_000  # the weights alone are 95 MB


def test_batches_shard_over_devices(weights):
  extractor = features.inception(weights, "tf1")
  images = random_images((2, 16, 16, 3), 0)
  mesh = jax.make_mesh((2,), ("data",))
  apply = jax.device_put(extractor.apply, NamedSharding(mesh, PartitionSpec()))
  x = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
  found = apply(x)
  assert found.pool.sharding.spec[0] == "data"
  alone = extractor.apply(images)
  for got, want in zip(found, alone, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_an_unknown_resize_is_one_sentence(weights):
  with pytest.raises(
    ValueError, match="pytorch-fid, tf1, clean, got 'bicubic'"
  ):
    features.inception(weights, "bicubic")
