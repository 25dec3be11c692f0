import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import evaluate, statistics
from experiments.evaluate import Scoring
from experiments.sampling import generate, generate_shards
from jaxgen import data


def noise(params, keys):
  draw = lambda key: jax.random.uniform(key, (4, 4, 1), minval=-1)
  return jax.vmap(draw)(keys) * params


def counted(calls):
  def draw(params, keys):
    calls.append(len(keys))
    return noise(params, keys)

  return draw


def test_generation_continues_where_it_was_stopped(tmp_path):
  one, whole = jnp.float32(1), generate(noise, jnp.float32(1), 20)

  def run(n=20, seed=0):
    calls = []
    images = generate_shards(
      counted(calls), one, n, tmp_path, {"weights": "w"}, seed, batch_size=8
    )
    return np.stack(images), len(calls)

  images, calls = run()
  assert calls == 3
  np.testing.assert_array_equal(images, whole)
  assert run()[1] == 0
  (tmp_path / "images-000008.npz").unlink()
  images, calls = run()
  assert calls == 1
  np.testing.assert_array_equal(images, whole)
  images, calls = run(n=30)  # the last of 3 batches was full
  assert calls == 1
  np.testing.assert_array_equal(images, generate(noise, one, 30))
  with pytest.raises(ValueError, match=r"differs in seed \(0, now 1\)"):
    run(seed=1)
  (tmp_path / "images-000000.npz").write_bytes(b"PK")
  with pytest.raises(ValueError, match=r"images-000000\.npz is not a whole"):
    run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  directory = tmp_path_factory.mktemp("digits")
  source = data.load("mnist5k", "test[:40]")
  for i in range(len(source)):
    data.save_png(directory / f"{i:02d}.png", source[i]["image"])
  return directory


def test_a_folder_against_the_same_images(folder, tmp_path):
  evaluate.main(
    images=str(folder),
    scoring=Scoring(reference="mnist5k:test[:40]", feature_batch=16),
    out=str(tmp_path),
  )
  content = json.loads((tmp_path / "scores.json").read_text())
  found = content["scores"]
  assert found["FID"]["metric"] == "FID (mnist5k-cnn)"
  assert found["FID"]["value"] < 1e-6
  assert found["precision"]["value"] == found["recall"]["value"] == 1
  assert found["FID"]["protocol"]["n"] == 40
  assert "mnist5k:test[:40], 40 images" in (tmp_path / "scores.md").read_text()
  assert (tmp_path / "grid.png").exists()


def test_statistics_once_for_many_evaluations(folder, tmp_path):
  out = tmp_path / "stats.npz"
  scoring = Scoring(features="mnist5k-cnn")
  statistics.main("mnist5k:train[:100]", str(out), scoring)
  fids = []
  for reference in (str(out), "mnist5k:train[:100]"):
    scoring = Scoring(features="mnist5k-cnn", reference=reference)
    evaluate.main(images=str(folder), scoring=scoring, out=str(tmp_path / "e"))
    content = json.loads((tmp_path / "e" / "scores.json").read_text())
    fids.append(content["scores"]["FID"])
  assert fids[0] == fids[1]
  assert fids[0]["value"] > 0.1


def test_bad_input_is_one_sentence(folder):
  with pytest.raises(ValueError, match="either --weights or --images"):
    evaluate.main()
  with pytest.raises(ValueError, match="need a reference"):
    evaluate.main(images=str(folder), scoring=Scoring(features="mnist5k-cnn"))
  scoring = Scoring(features="mnist5k-cnn", reference="nowhere")
  with pytest.raises(FileNotFoundError, match="NAME:SPLIT"):
    evaluate.main(images=str(folder), scoring=scoring)
