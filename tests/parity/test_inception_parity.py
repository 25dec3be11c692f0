"""FID's Inception and resizes against pytorch-fid and torch-fidelity.

Their outputs are stored (tests/data/PROVENANCE.md): they need torchvision. The
weights are random and drawn again here.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_inception import inception_state, random_images

from jaxgen.convert import inception as convert
from jaxgen.convert.state import write_safetensors
from jaxgen.metrics import features
from jaxgen.metrics.resize import pytorch_fid, tf1
from jaxgen.nn.inception import Inception

STORED = np.load(Path(__file__).parents[1] / "data/fid_inception.npz")


def relative_error(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def state():
  return inception_state()


def test_every_tap_equals_pytorch_fid(state):
  x = np.random.RandomState(1).uniform(-1, 1, (2, 75, 91, 3))
  params = convert.from_state(state)
  taps = jax.jit(Inception().apply)({"params": params}, jnp.float32(x))
  for ours, theirs in {
    "mean_64": "port_64",
    "mean_192": "port_192",
    "spatial": "port_spatial",
    "mean_768": "port_768",
    "pool": "port_2048",
    "logits": "port_logits",
  }.items():
    error = relative_error(getattr(taps, ours), STORED[theirs])
    assert error <= 1e-5, ours
  bias = state["fc.bias"]
  np.testing.assert_allclose(
    taps.logits - taps.logits_unbiased, [bias, bias], atol=1e-6
  )


def test_features_equal_torch_fidelity(tmp_path, state):
  """From uint8 pixels to features, at the size of the published scores."""
  write_safetensors(tmp_path / "weights.safetensors", state)
  extractor = features.inception(tmp_path / "weights.safetensors", "tf1")
  found = extractor.apply(random_images((1, 50, 64, 3), seed=2))
  assert relative_error(found.pool, STORED["fidelity_2048"]) <= 1e-5
  logits = STORED["fidelity_logits_unbiased"]
  assert relative_error(found.logits, logits) <= 1e-5
  assert found.spatial.shape == (1, 2023)


@pytest.mark.parametrize("size", [(32, 32), (299, 299), (341, 260)], ids=str)
def test_tf1_resize_equals_torch_fidelity(size):
  resized = tf1(random_images((1, *size, 3), seed=3))[:, ::17, ::13]
  stored = STORED[f"tf1_{size[0]}x{size[1]}"]
  np.testing.assert_allclose(resized, stored, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (299, 299), (341, 260)], ids=str)
def test_pytorch_fid_resize_equals_torch(size):
  torch = pytest.importorskip("torch")
  x = random_images((2, *size, 3), seed=4)
  scaled = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
  resized = torch.nn.functional.interpolate(
    scaled, (299, 299), mode="bilinear", align_corners=False
  )
  want = (2 * resized - 1).permute(0, 2, 3, 1)
  np.testing.assert_allclose(pytorch_fid(x), want, atol=2e-6)
