"""Loading by name. TFDS's own data sets are prepared with made-up examples:

the feature specification, the files and the way to them are the real ones.
"""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxgen.data import load, train_batches
from jaxgen.data.loading import make_builder, prepare_quietly
from jaxgen.data.prepare import main, prepare

N = 12


def made_up(feature, i):
  """A value that the feature accepts, images as compressed bytes."""
  if isinstance(feature, tfds.features.FeaturesDict):
    return {key: made_up(f, i) for key, f in feature.items()}
  if isinstance(feature, tfds.features.Image):
    height, width, channels = feature.shape
    return encode(picture(i, height or 300, width or 400, channels))
  if isinstance(feature, tfds.features.ClassLabel):
    return i % feature.num_classes
  if isinstance(feature, tfds.features.Text):
    return f"text {i}"
  return 0


def picture(i, height, width, channels):
  rng = np.random.default_rng(i)
  return rng.integers(0, 256, (height, width, channels), np.uint8)


def encode(pixels):
  out = io.BytesIO()
  Image.fromarray(pixels.squeeze()).save(out, "png")
  return out.getvalue()


def prepare_made_up(monkeypatch, name, data_dir):
  """Prepares a data set of TFDS as `prepare` does, but with our examples."""

  def split_generators(self, *args, **kwargs):
    features = self.info.features
    return {"train": ((i, made_up(features, i)) for i in range(N))}

  builder = tfds.builder_cls(name.partition("/")[0])
  monkeypatch.setattr(builder, "_split_generators", split_generators)
  monkeypatch.setattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
  return prepare(name, data_dir)


@pytest.mark.parametrize(
  ("name", "shape", "classes"),
  [
    ("cifar10", (32, 32, 3), 10),
    ("celeb_a", (218, 178, 3), 0),
    ("celeb_a_hq/256", (256, 256, 3), 0),
    ("lsun/bedroom", (300, 400, 3), 0),
    ("lsun/church_outdoor", (300, 400, 3), 0),
    ("lsun/cat", (300, 400, 3), 0),
    ("imagenet2012", (300, 400, 3), 1000),
    ("cifar100", (32, 32, 3), 100),
  ],
)
def test_data_sets_of_tfds(monkeypatch, tmp_path, name, shape, classes):
  with pytest.raises(FileNotFoundError) as error:
    load(name, data_dir=tmp_path)
  command = f"python -m jaxgen.data.prepare {name} --data_dir {tmp_path}"
  assert f"run `{command}`" in str(error.value)
  assert "mnist5k and openmoji/32" in str(error.value)
  assert "\n" not in str(error.value)

  folder = prepare_made_up(monkeypatch, name, tmp_path)
  assert folder.startswith(str(tmp_path / name))
  source = load(name, data_dir=tmp_path)
  assert len(source) == N
  assert len(source.label_names) == classes
  got = sorted(example["image"].tobytes() for example in source)
  assert got == sorted(picture(i, *shape).tobytes() for i in range(N))
  assert all(example["image"].shape == shape for example in source)

  size = min(32, *shape[:2])
  batch = next(train_batches(source, N, size, 0))
  assert batch["image"].shape == (N, size, size, 3)
  if classes:
    assert sorted(batch["label"]) == sorted(i % classes for i in range(N))
  else:
    assert batch.keys() == {"image"}


def test_label_maps_of_tfds(monkeypatch, tmp_path):
  prepare_made_up(monkeypatch, "scene_parse150", tmp_path)
  source = load("scene_parse150", data_dir=tmp_path)
  assert len(source) == N
  # The made-up maps are the images: the class is the red channel.
  for example in source:
    assert example.keys() == {"image", "segmentation"}
    assert example["segmentation"].dtype == np.uint8
    np.testing.assert_array_equal(
      example["segmentation"], example["image"][..., 0]
    )


def test_names_and_splits_that_do_not_exist(data_dir, mnist5k):
  for name in ("nope", "", "../mnist5k", "CIFAR10"):
    with pytest.raises(ValueError, match="no data set is called"):
      load(name, data_dir=data_dir)
  for name in ("openmoji/33", "mnist5k/1", "cifar10:9.9.9", "lsun/nope"):
    with pytest.raises(ValueError, match="no such configuration or version"):
      load(name, data_dir=data_dir)
  with pytest.raises(ValueError, match=r"no split 'trian'; it has train, test"):
    load("mnist5k", "trian", data_dir)


def test_sources_index_like_sequences(mnist5k):
  assert len(mnist5k[:3]) == 3
  last = mnist5k[len(mnist5k) - 1]["image"]
  np.testing.assert_array_equal(mnist5k[-1]["image"], last)
  with pytest.raises(IndexError):
    mnist5k[len(mnist5k)]


def test_corrupt_images_are_named(monkeypatch, tmp_path):
  monkeypatch.setattr(
    sys.modules[__name__], "encode", lambda pixels: b"rubbish"
  )
  prepare_made_up(monkeypatch, "cifar10", tmp_path)
  source = load("cifar10", data_dir=tmp_path)
  with pytest.raises(
    ValueError, match="cifar10, example 3: 7 bytes are not a readable image"
  ):
    source[3]


def test_files_without_random_access(monkeypatch, tmp_path, capsys):
  folder = prepare_made_up(monkeypatch, "cifar10", tmp_path)
  info = os.path.join(folder, "dataset_info.json")
  with open(info) as file:
    written = json.load(file)
  assert written["fileFormat"] == "array_record"
  with open(info, "w") as file:
    json.dump(written | {"fileFormat": "tfrecord"}, file)
  with pytest.raises(ValueError, match="stored as tfrecord, which has no rand"):
    load("cifar10", data_dir=tmp_path)
  assert main(["cifar10", "--data_dir", str(tmp_path)]) == 1
  assert "already holds cifar10 as tfrecord" in capsys.readouterr().err


def test_prepare_command(data_dir, mnist5k, capsys, monkeypatch):
  assert main(["mnist5k", "--data_dir", str(data_dir)]) == 0
  assert capsys.readouterr().out == f"{data_dir}/mnist5k/1.0.0\n"
  assert main(["nope", "--data_dir", str(data_dir)]) == 1
  assert "no data set is called 'nope'" in capsys.readouterr().err

  def needs_tensorflow(self, *args, **kwargs):
    import tensorflow  # noqa: F401

  builder = tfds.builder_cls("cifar10")
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  monkeypatch.setattr(builder, "_split_generators", needs_tensorflow)
  assert main(["cifar10", "--data_dir", str(data_dir)]) == 1
  assert "needs a package that reading it will not" in capsys.readouterr().err


def run(code, **environment):
  return subprocess.Popen(
    [sys.executable, "-c", code],
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_two_processes_may_build_at_once_and_without_tensorflow(tmp_path):
  code = (
    "import sys\n"
    "from jaxgen.data import load, train_batches, eval_batches\n"
    "source = load('mnist5k', 'train+test')\n"
    "next(train_batches(source, 64, 28, 0, flip=True))\n"
    "batches = eval_batches(source, 64, 28)\n"
    "assert sum(batch['mask'].sum() for batch in batches) == 5000\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  processes = [run(code, TFDS_DATA_DIR=str(tmp_path)) for _ in range(2)]
  for process in processes:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    # One line, from those who found nothing.
    assert out in ("", f"building mnist5k/1.0.0 in {tmp_path}/mnist5k/1.0.0\n")
  assert [p.name for p in (tmp_path / "mnist5k").iterdir()] == ["1.0.0"]


def test_the_loser_of_a_race_finds_the_data(monkeypatch, tmp_path):
  builder = make_builder("mnist5k", tmp_path)
  split_generators = type(builder)._split_generators

  def slow(self, dl_manager):
    # Another process builds everything in the meantime.
    monkeypatch.undo()
    prepare_quietly(make_builder("mnist5k", tmp_path))
    return split_generators(self, dl_manager)

  monkeypatch.setattr(type(builder), "_split_generators", slow)
  prepare_quietly(builder)
  assert len(load("mnist5k", "train+test", tmp_path)) == 5000
  assert [p.name for p in (tmp_path / "mnist5k").iterdir()] == ["1.0.0"]


def test_unwritable_data_dir(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match=r"cannot build mnist5k in .*file/mnist5k"):
    load("mnist5k", data_dir=tmp_path / "file")


@pytest.mark.parametrize(
  ("missing", "call"),
  [
    ("tensorflow_datasets", "load('mnist5k')"),
    ("grain", "train_batches([], 1, 1, 0)"),
    ("PIL", "save_png('/tmp/never.png', np.zeros((1, 1, 1), np.uint8))"),
  ],
)
def test_importing_needs_no_extra(missing, call):
  code = (
    "import sys\n"
    "for name in ('tensorflow_datasets', 'grain', 'PIL', 'array_record'):\n"
    "  sys.modules[name] = None\n"
    "import numpy as np\n"
    "from jaxgen.data import *\n"
    "to_uint8(image_grid(np.zeros((4, 2, 2, 1))))\n"
    "try:\n"
    f"  {call}\n"
    "except ImportError as error:\n"
    "  print(error)\n"
  )
  out, error = run(code).communicate(timeout=60)
  assert out.startswith(f"jaxgen.data needs {missing}"), error
  assert "pip install 'jaxgen[data]'" in out
  assert out.count("\n") == 1
