"""Scores of PNGs against pytorch-fid and torch-fidelity, random weights."""

from pathlib import Path

import numpy as np
import pytest
from random_inception import inception_state, random_textures

from jaxgen.convert.state import write_safetensors
from jaxgen.data import save_png
from jaxgen.metrics import features, files, statistics
from jaxgen.metrics.distances import kernel_distance
from jaxgen.metrics.scores import scores

STORED = dict(np.load(Path(__file__).parents[1] / "data" / "fid_scores.npz"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("fid")
  write_safetensors(root / "w.safetensors", inception_state())
  for name, images in zip(("fake", "real"), random_textures(), strict=True):
    for i, image in enumerate(images):
      save_png(root / name / f"{i:03d}.png", image)
  return root


def measure(folder, resize):
  extractor = features.inception(folder / "w.safetensors", resize)
  found = []
  for name in ("fake", "real"):
    images = files.open_images(folder / name)
    batches = statistics.batches_of(images, 10)
    found.append(statistics.collect(extractor, batches, len(images), name))
  return found


@pytest.mark.slow
def test_pytorch_fid(folder):
  found = scores(*measure(folder, "pytorch-fid"))
  assert found["FID"].metric == "FID"
  want = float(STORED["pytorch_fid"])
  np.testing.assert_allclose(found["FID"].value, want, rtol=1e-3)


@pytest.mark.slow
def test_torch_fidelity(folder):
  fake, real = measure(folder, "tf1")
  found = scores(fake, real)
  wanted = {
    "FID": STORED["frechet_inception_distance"],
    "precision": STORED["precision"],
    "recall": STORED["recall"],
  }
  for name, want in wanted.items():
    np.testing.assert_allclose(found[name].value, want, rtol=1e-3, err_msg=name)
  # Random weights hardly tell classes apart: the score is just above 1.
  want = STORED["inception_score_mean"] - 1
  np.testing.assert_allclose(found["IS"].value - 1, want, rtol=1e-2)
  want = STORED["inception_score_std"]
  np.testing.assert_allclose(found["IS"].std, want, rtol=1e-2)
  # Its default subsets of 1000 images need more than there are.
  mean, std = kernel_distance(fake.kept, real.kept, 20, 12)
  want = STORED["kernel_inception_distance_mean"]
  np.testing.assert_allclose(mean, want, rtol=1e-3)
  want = STORED["kernel_inception_distance_std"]
  np.testing.assert_allclose(std, want, rtol=1e-3)
