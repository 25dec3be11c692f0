import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxgen.data import save_png
from jaxgen.metrics import features, files
from jaxgen.metrics.features import Extractor, Features
from jaxgen.metrics.scores import scores
from jaxgen.metrics.statistics import batches_of, collect

IMAGES = (
  np.random.default_rng(0).integers(0, 256, (53, 4, 4, 3)).astype(np.uint8)
)


def extract(weights, images):
  x = images.astype(np.float32).reshape(len(images), -1) / 255
  return Features(x @ weights, x[:, :5], x[:, :3])


WEIGHTS = np.random.default_rng(1).standard_normal((48, 6)).astype(np.float32)
LINEAR = Extractor("linear", "abc", "none", 3, Partial(extract, WEIGHTS))


def gather(images=IMAGES, batch=16, **kwargs):
  kwargs = {"total": len(images), "source": "noise"} | kwargs
  return collect(LINEAR, batches_of(images, batch), **kwargs)


@pytest.mark.parametrize("batch", [16, 53, 100])
def test_statistics_are_those_of_all_images(batch):
  """Against numpy on all features at once; 53 leaves a partial batch."""
  found = gather(batch=batch, keep=20)
  x = IMAGES.reshape(53, -1) / 255
  for got, want in ((found.pool, x @ WEIGHTS), (found.spatial, x[:, :5])):
    np.testing.assert_allclose(got.mean, want.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
      got.covariance, np.cov(want.T), rtol=1e-4, atol=1e-6
    )
  np.testing.assert_allclose(found.kept, (x @ WEIGHTS)[:20], rtol=1e-4)
  assert found.classes.n.sum() == found.n == 53
  assert found.network == ("linear", "abc", "none")


def test_the_digest_is_of_the_images_alone():
  assert gather(batch=16).digest == gather(batch=50).digest
  other = IMAGES.copy()
  other[30, 0, 0, 0] ^= 1
  assert gather(other).digest != gather().digest


def test_every_image_counts():
  with pytest.raises(ValueError, match="53 images, fewer than 60"):
    gather(total=60)
  with pytest.raises(ValueError, match="more images than the 40"):
    gather(total=40)
  with pytest.raises(ValueError, match="at least 10 images, got 9"):
    gather(IMAGES[:9])
  with pytest.raises(ValueError, match="one shape"):
    list(batches_of([IMAGES[0], IMAGES[0, :3]], 2))


def test_statistics_survive_a_file(tmp_path):
  path = tmp_path / "a" / "stats.npz"
  whole = gather()
  files.write_statistics(path, whole)
  again = files.read_statistics(path)
  for field in dataclasses.fields(whole):
    jax.tree.map(
      np.testing.assert_array_equal,
      getattr(whole, field.name),
      getattr(again, field.name),
    )
  with np.load(path) as stored:  # what pytorch-fid and ADM look for
    np.testing.assert_array_equal(stored["mu"], whole.pool.mean)
    np.testing.assert_array_equal(stored["sigma"], whole.pool.covariance)
    np.testing.assert_array_equal(stored["mu_s"], whole.spatial.mean)
    np.testing.assert_array_equal(stored["sigma_s"], whole.spatial.covariance)
  assert [p.name for p in path.parent.iterdir()] == ["stats.npz"]


def test_foreign_statistics_give_fid_alone(tmp_path):
  path = tmp_path / "fid_stats.npz"
  mine = gather()
  np.savez(path, mu=mine.pool.mean, sigma=mine.pool.covariance)
  foreign = files.read_statistics(path)
  assert foreign.n is None
  assert foreign.network is None
  found = scores(mine, foreign)
  assert set(found) == {"FID", "IS"}
  assert found["FID"].value < 1e-6
  assert found["FID"].protocol.reference.startswith("fid_stats.npz, ? images")


def test_damaged_statistics_are_refused(tmp_path):
  path = tmp_path / "s.npz"
  with pytest.raises(FileNotFoundError, match="no file"):
    files.read_statistics(path)
  files.write_statistics(path, gather())
  whole = path.read_bytes()
  for damaged in (whole[: len(whole) // 2], b"", b"not an archive"):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="not a whole"):
      files.read_statistics(path)
  np.savez(path, mu=np.zeros(3))
  with pytest.raises(ValueError, match="holds mu, wanted mu and sigma"):
    files.read_statistics(path)
  np.savez(path, mu=np.zeros(3), sigma=np.zeros((2, 2)))
  with pytest.raises(ValueError, match="holds no statistics"):
    files.read_statistics(path)
  np.savez(path, mu=np.array([{}], object), sigma=np.zeros((2, 2)))
  with pytest.raises(ValueError, match="not a whole"):  # a pickle
    files.read_statistics(path)


def test_images_of_folders_and_archives(tmp_path):
  for i in (2, 0, 1):
    save_png(tmp_path / "png" / f"{i}.png", IMAGES[i])
  (tmp_path / "png" / "notes.txt").write_text("")
  found = files.open_images(tmp_path / "png")
  np.testing.assert_array_equal(np.stack(list(found)), IMAGES[:3])
  files.write_images(tmp_path / "some.npz", IMAGES)
  np.testing.assert_array_equal(
    files.open_images(tmp_path / "some.npz"), IMAGES
  )
  with np.load(tmp_path / "some.npz") as stored:
    assert stored.files == ["arr_0"]
  (tmp_path / "png" / "x.jpg").write_bytes(b"")
  with pytest.raises(ValueError, match=r"not PNG, such as x\.jpg"):
    files.open_images(tmp_path / "png")
  (tmp_path / "empty").mkdir()
  with pytest.raises(FileNotFoundError, match="no PNG files"):
    files.open_images(tmp_path / "empty")
  with pytest.raises(ValueError, match="3 channels, wanted 1"):
    files.open_images(tmp_path / "some.npz", channels=1)
  np.savez(tmp_path / "other.npz", x=IMAGES)
  with pytest.raises(ValueError, match="no uint8 images"):
    files.open_images(tmp_path / "other.npz")
  with pytest.raises(TypeError, match="wanted uint8"):
    files.write_images(tmp_path / "f.npz", IMAGES.astype(np.float32))


def test_scores_name_their_network():
  fake = gather(255 - IMAGES[:40], source="fake")
  found = scores(fake, gather(), "truncate", "0 to 39")
  assert set(found) == {"FID", "sFID", "IS", "KID", "precision", "recall"}
  fid = found["FID"]
  assert fid.metric == "FID (linear)"
  assert fid.seeds == "0 to 39"
  assert fid.protocol.rounding == "truncate"
  assert fid.protocol.n == 40
  assert "noise, 53 images" in fid.protocol.reference
  assert found["IS"].protocol.reference == ""
  assert found["KID"].protocol.setting.startswith("100 subsets of 40")
  other = dataclasses.replace(gather(), network=("linear", "xyz", "none"))
  with pytest.raises(ValueError, match="linear xyz none"):
    scores(fake, other)


@pytest.mark.parametrize("name", ["mnist5k-cnn", "openmoji32-cnn"])
def test_shipped_features(name):
  """Small enough to ship, and as accurate as their provenance says."""
  from safetensors import safe_open

  path = features.SHIPPED / f"{name}.safetensors"
  assert path.stat().st_size < 1_000_000
  with safe_open(path, "numpy") as file:
    about = json.loads(file.metadata()["provenance"])
  from jaxgen import data

  source = data.load(about["dataset"], "test")
  extractor = features.small(name)
  right = []
  for start in range(0, len(source), 100):
    examples = source[start : start + 100]
    images = np.stack([e["image"] for e in examples])
    guess = np.asarray(extractor.apply(images).logits).argmax(-1)
    right += list(guess == [e["label"] for e in examples])
  assert np.mean(right) == pytest.approx(about["accuracy on test"], abs=0.003)
  with pytest.raises(ValueError, match="takes uint8 images"):
    extractor.apply(np.zeros((1, 28, 28, 2), np.uint8))


def test_unknown_features_are_refused():
  with pytest.raises(ValueError, match="mnist5k-cnn, openmoji32-cnn, got 'x'"):
    features.small("x")
