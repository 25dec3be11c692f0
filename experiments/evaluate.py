"""Scores generated images against real ones: FID, sFID, IS, KID, ...

  python -m experiments.evaluate --weights runs/mnist5k --n 1000
  python -m experiments.evaluate --images samples.npz --reference cifar10:train

Of a checkpoint it draws n images, over all devices, into OUT/images; started
again, it continues where it was stopped. Scores go to OUT/scores.json and
scores.md, with the protocol they hold under, the first images to OUT/grid.png.

Features are FID's Inception-v3 (its weights are downloaded once) unless the
data set has a small network that ships with jaxgen: `mnist5k` and `openmoji`
need no download. `--features inception` insists.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from rich.progress import track

from experiments import models, results
from experiments.cli import command_line
from experiments.models import CROPS, Model
from experiments.plots import save_grid
from experiments.sampling import (
  Draw,
  Given,
  Sampling,
  generate_shards,
  make_draw,
)
from jaxgen import data, training
from jaxgen.data import center_crop_resize
from jaxgen.data.batches import Crop
from jaxgen.metrics import features, files
from jaxgen.metrics.features import Extractor
from jaxgen.metrics.protocol import Score
from jaxgen.metrics.scores import INCEPTION, scores
from jaxgen.metrics.statistics import Statistics, batches_of, collect
from jaxgen.types import PyTree


@dataclasses.dataclass(frozen=True)
class Scoring:
  """How images are scored: the protocol.

  Attributes:
    features: "inception", a network that ships with jaxgen such as
      "mnist5k-cnn", or "auto": the shipped one of the data set, if any.
    inception_weights: the Inception's file, if not the downloaded one.
    resize: to Inception's size: "pytorch-fid", "tf1" or "clean".
    truncate: round to 8 bits by truncation, as score-SDE and ADM do.
    reference: NAME:SPLIT of a TFDS data set, a folder of PNGs, an .npz of
      images, or an .npz of statistics (jaxgen's, pytorch-fid's, ADM's); by
      default the split that the checkpoint was trained on.
    feature_batch: images at a time in the feature network.
  """

  features: str = "auto"
  inception_weights: str = ""
  resize: Literal["pytorch-fid", "tf1", "clean"] = "pytorch-fid"
  truncate: bool = False
  reference: str = ""
  feature_batch: int = 64


DEFAULT_SAMPLING = Sampling()
DEFAULT_SCORING = Scoring()


def make_extractor(scoring: Scoring, dataset: str = "") -> Extractor:
  """The feature network that a protocol names."""
  name = scoring.features
  if name == "auto":
    own = f"{dataset.replace('/', '')}-cnn"
    shipped = (features.SHIPPED / f"{own}.safetensors").is_file()
    name = own if shipped else "inception"
  if name == "inception":
    return features.inception(scoring.inception_weights or None, scoring.resize)
  return features.small(name)


def reference_statistics(
  scoring: Scoring,
  extractor: Extractor,
  image_size: int | None = None,
  data_dir: str = "",
  crop: Crop = center_crop_resize,
) -> Statistics:
  """Statistics of the reference that a protocol names.

  Args:
    scoring: the protocol.
    extractor: of the features.
    image_size: of a TFDS data set, which is cropped and resized to it as for
      training; its own size if None.
    data_dir: of TFDS.
    crop: of a TFDS data set.

  Raises:
    ValueError: no reference is named, or it does not fit.
  """
  name = scoring.reference
  path = Path(name)
  if not name:
    raise ValueError(
      "images need a reference: NAME:SPLIT of a data set, a folder of PNGs or "
      "an .npz"
    )
  if path.suffix == ".npz" and "mu" in files.array_names(path):
    return files.read_statistics(path)
  if path.exists():
    images = files.open_images(path, extractor.channels)
    return image_statistics(images, name, extractor, scoring.feature_batch)
  dataset, split = dataset_and_split(name)
  if not split:
    raise FileNotFoundError(
      f"there is no file {name}; a data set is named NAME:SPLIT"
    )
  source = _Cropped(
    data.load(dataset, split, data_dir or None), image_size, crop
  )
  return image_statistics(source, name, extractor, scoring.feature_batch)


def dataset_and_split(reference: str) -> tuple[str, str]:
  """The two parts of "cifar10:test[:100]"; empty if it is something else.

  TFDS's names may hold a version, "cifar10:3.0.2:test".
  """
  match = re.fullmatch(r"([\w/.-]+(?::\d[\d.]*)?):(.+)", reference)
  return (match[1], match[2]) if match else ("", "")


def image_statistics(
  images: Sequence[np.ndarray],
  source: str,
  extractor: Extractor,
  batch_size: int = 64,
) -> Statistics:
  """Statistics of a sequence of images, with a progress bar."""
  batches = track(
    batches_of(images, batch_size),
    f"features of {source}",
    total=-(-len(images) // batch_size),
    transient=True,
  )
  return collect(extractor, batches, len(images), source)


class _Cropped(Sequence):
  """The images of a data set as they are trained on."""

  def __init__(self, source: data.Source, size: int | None, crop: Crop) -> None:
    self._source, self._size, self._crop = source, size, crop

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index):
    image = self._source[index]["image"]
    return self._crop(image, self._size) if self._size else image


class Yardstick(NamedTuple):
  """What samples are held against.

  Attributes:
    extractor: of the features.
    reference: statistics of the real images.
    scoring: the protocol.
  """

  extractor: Extractor
  reference: Statistics
  scoring: Scoring


def make_yardstick(config: Any, scoring: Scoring) -> Yardstick:
  """The yardstick for a model; by default its own training split."""
  own = f"{config.dataset}:{config.split}"
  scoring = dataclasses.replace(scoring, reference=scoring.reference or own)
  extractor = make_extractor(scoring, config.dataset)
  if extractor.channels not in (config.image_channels, 3):
    raise ValueError(
      f"{extractor.name} takes images of {extractor.channels} channel, the "
      f"model makes images of {config.image_channels}"
    )
  reference = reference_statistics(
    scoring,
    extractor,
    config.image_size,
    config.data_dir,
    CROPS[config.crop],
  )
  return Yardstick(extractor, reference, scoring)


def score_samples(
  model: Model,
  how: Any,
  yardstick: Yardstick,
  n: int,
  directory: Path,
  seed: int = 0,
  batch_size: int = 64,
  draw: Draw | None = None,
  given: Given | None = None,
) -> tuple[dict[str, Score], list[np.ndarray]]:
  """Scores of n images of a model, and the images.

  Args:
    model: the model.
    how: the sampler, a `Sampling` or the dataclass that `draw` was made from.
    yardstick: what the images are held against.
    n: how many images.
    directory: where they are kept, see `generate_shards`.
    seed: of the images.
    batch_size: images drawn at a time.
    draw: samples a batch; made from `how` if None.
    given: what image i is conditional on; see `experiments.sampling.generate`.
  """
  extractor, reference, scoring = yardstick
  identity = {
    "weights": params_digest(model.params),
    "sampling": dataclasses.asdict(how),
    "image_size": model.config.image_size,
  }
  if given:
    identity["given"] = params_digest(given)
  images = generate_shards(
    draw or make_draw(model, how),
    model.params,
    n,
    directory,
    identity,
    seed,
    batch_size,
    scoring.truncate,
    given,
  )
  generated = image_statistics(
    images, "samples", extractor, scoring.feature_batch
  )
  rounding = "truncate" if scoring.truncate else "round"
  # Image i's key is fold_in(key(seed), i).
  seeds = f"({seed}, 0) to ({seed}, {n - 1})"
  return scores(generated, reference, rounding, seeds), images


def params_digest(params: PyTree) -> str:
  """16 digits that tell these parameters from others."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]


def cell(score: Score) -> str:
  """A score in a table: with its network unless that is FID's own."""
  network = score.protocol.features
  return str(score) if network == INCEPTION else f"{score} ({network})"


def report(found: dict[str, Score]) -> str:
  """Scores and their protocol as Markdown."""
  rows = [
    (s.metric, str(s), s.protocol.reference or "–", s.protocol.setting or "–")
    for s in found.values()
  ]
  first = next(iter(found.values()))
  p = first.protocol
  table = results.markdown(("metric", "value", "reference", "setting"), rows)
  return (
    f"{table}\n{p.n} images, seeds {first.seeds or 'unknown'}; features "
    f"{p.features} ({p.weights}), resize {p.resize}, rounding {p.rounding}; "
    f"{results.device()}, commit {results.commit()}\n"
  )


def main(
  weights: str = "",
  images: str = "",
  how: tyro.conf.OmitArgPrefixes[Sampling] = DEFAULT_SAMPLING,
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 1000,
  seed: int = 0,
  sampling_batch: int = 64,
  out: str = "runs/evaluate",
) -> None:
  """Scores a checkpoint or a set of images.

  Args:
    weights: a workdir, or published weights.
    images: instead: a folder of PNGs, or an .npz of images.
    how: the sampler of a checkpoint.
    scoring: the protocol.
    n: images to draw of a checkpoint; the papers take 50,000.
    seed: of a checkpoint's images.
    sampling_batch: images drawn at a time.
    out: directory for images and scores.
  """
  training.initialize_distributed()
  if bool(weights) == bool(images):
    raise ValueError("evaluate takes either --weights or --images")
  timer = results.Timer()
  directory = Path(out)
  shown: Sequence[np.ndarray]
  if weights:
    model = models.load(weights)
    yardstick = make_yardstick(model.config, scoring)
    found, shown = score_samples(
      model, how, yardstick, n, directory / "images", seed, sampling_batch
    )
  else:
    extractor = make_extractor(scoring, dataset_and_split(scoring.reference)[0])
    shown = files.open_images(images, extractor.channels)
    generated = image_statistics(
      shown, images, extractor, scoring.feature_batch
    )
    found = scores(generated, reference_statistics(scoring, extractor))
  if jax.process_index() > 0:
    return  # the first process writes
  directory.mkdir(parents=True, exist_ok=True)
  content = {
    "scores": {k: dataclasses.asdict(s) for k, s in found.items()},
    "seconds": timer.seconds(),
    "device": results.device(),
    "commit": results.commit(),
  }
  (directory / "scores.json").write_text(json.dumps(content, indent=2) + "\n")
  text = report(found)
  (directory / "scores.md").write_text(text)
  count = min(64, len(shown))
  grid = np.stack([shown[i] for i in range(count)])
  save_grid(directory / "grid.png", grid, columns=8)
  print(text)
  print(f"saved: {directory / 'scores.json'}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
