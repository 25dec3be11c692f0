import hashlib

import jax
import numpy as np
import pytest
from random_inception import inception_state

from jaxgen.convert import inception
from jaxgen.convert.state import write_safetensors


@pytest.fixture(scope="module")
def state():
  return inception_state()


@pytest.fixture(scope="module")
def params(state):
  return inception.from_state(state)


@pytest.fixture
def published(tmp_path, monkeypatch):
  """A stand-in for the release, on this disk."""
  content = b"weights" * 500_000
  (tmp_path / "release").write_bytes(content)
  url = (tmp_path / "release").as_uri()
  monkeypatch.setattr(inception, "WEIGHTS_URL", url)
  start = hashlib.sha256(content).hexdigest()[:8]
  monkeypatch.setattr(inception, "_SHA256_START", start)
  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "new" / "cache"))
  return tmp_path / "release"


def test_names_are_those_of_the_port(state):
  assert len(state) == 94 * 5 + 2
  assert state["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
  assert state["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
  assert state["Mixed_6b.branch7x7_3.conv.weight"].shape == (192, 128, 7, 1)
  assert state["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)
  assert state["fc.weight"].shape == (1008, 2048)


def test_round_trip_is_exact(state, params):
  back = inception.to_state(params)
  assert set(back) == set(state)
  for name, tensor in state.items():
    np.testing.assert_array_equal(back[name], tensor)
  bn = params["Mixed_5b"]["branch_pool"]["bn"]
  prefix = "Mixed_5b.branch_pool.bn"
  np.testing.assert_array_equal(bn["mean"], state[f"{prefix}.running_mean"])
  np.testing.assert_array_equal(bn["var"], state[f"{prefix}.running_var"])


def test_counters_of_the_normalisations_are_left_out(state, params):
  counters = {
    name.replace("running_mean", "num_batches_tracked"): np.int64(0)
    for name in state
    if name.endswith("running_mean")
  }
  assert len(counters) == 94
  loaded = inception.from_state(state | counters)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_faults_name_the_tensors(state):
  for name in ("AuxLogits.fc.weight", "num_batches_tracked"):
    with pytest.raises(ValueError, match=f"unused: {name}"):
      inception.from_state(state | {name: np.ones(1)})
  less = {k: v for k, v in state.items() if not k.startswith("fc.")}
  with pytest.raises(ValueError, match=r"missing: fc\.bias, fc\.weight\.$"):
    inception.from_state(less)
  imagenet = np.ones((1000, 2048), np.float32)  # torchvision's classes
  with pytest.raises(ValueError, match=r"fc\.weight \(1000, 2048\)"):
    inception.from_state(state | {"fc.weight": imagenet})


def test_load_from_a_given_file(tmp_path, state, params):
  write_safetensors(tmp_path / "w.safetensors", state)
  loaded = inception.load(tmp_path / "w.safetensors")
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  with pytest.raises(FileNotFoundError, match="no checkpoint file"):
    inception.load(tmp_path / "absent.pth")


def test_downloads_once(published, tmp_path):
  path = inception.weights_path()
  assert path == tmp_path / "new" / "cache" / inception.WEIGHTS_FILE
  assert path.read_bytes() == published.read_bytes()
  published.unlink()
  assert inception.weights_path() == path
  assert [path] == list(path.parent.iterdir())


def test_another_file_than_the_published_one(published):
  published.write_bytes(b"not the weights")
  with pytest.raises(ValueError, match=r"gave a file of SHA-256 .*, wanted "):
    inception.weights_path()
  assert not any((published.parent / "new" / "cache").iterdir())


def test_without_a_network(published):
  published.unlink()
  place = published.parent / "new" / "cache" / inception.WEIGHTS_FILE
  with pytest.raises(OSError, match=f"put the file yourself at {place}"):
    inception.load()
  assert not any(place.parent.iterdir())


def test_the_cache_by_default(monkeypatch, tmp_path):
  monkeypatch.delenv("JAXGEN_CACHE", raising=False)
  monkeypatch.setenv("HOME", str(tmp_path))
  path = tmp_path / ".cache" / "jaxgen" / inception.WEIGHTS_FILE
  path.parent.mkdir(parents=True)
  path.touch()
  assert inception.weights_path() == path
