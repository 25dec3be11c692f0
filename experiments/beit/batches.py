"""Batches for BEiT: pairs of views, augmented images, images to judge by."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.beit import model
from experiments.beit.config import Pretrain
from experiments.beit.finetune_config import Finetune
from experiments.beit.model import Normalize
from experiments.beit.probe_config import Probe
from jaxgen import data
from jaxgen.data.rand_augment import random_erasing
from jaxgen.data.transforms import eval_crop
from jaxgen.data.views import LabelledView, PairOfViews


@dataclasses.dataclass(frozen=True)
class Erased:
  """A labelled view of which a part may be noise.

  The noise is normal in the network's own units, as in the original, where
  images are normalised before.
  """

  view: LabelledView
  erasing: float
  normalize: Normalize

  def __call__(
    self, example: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """The image, float32 in [-1, 1], and its label."""
    found = self.view(example, rng)
    image = found["image"]
    mean, std = (x[: image.shape[-1]] for x in model.moments(self.normalize))
    image = random_erasing(rng, image, self.erasing, mean=mean, std=std)
    return {**found, "image": image}


@dataclasses.dataclass(frozen=True)
class Central:
  """The centre of an image."""

  size: int
  crop_pct: float

  def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
    """The image at `size` and its label."""
    image = eval_crop(example["image"], self.size, self.crop_pct)
    return {"image": image, "label": example["label"]}


def pretraining_batches(config: Pretrain, second_size: int) -> Any:
  """The stream of `image`, `second` and `mask`.

  Args:
    config: of the pre-training.
    second_size: height and width of the tokenizer's view; 0 for none.
  """
  return data.train_batches(
    data.load(config.dataset, config.split, config.data_dir or None),
    config.batch_size,
    config.image_size,
    config.seed,
    transform=pair_of_views(config, second_size),
    num_workers=config.num_workers,
  )


def pair_of_views(config: Pretrain, second_size: int) -> PairOfViews:
  """What pre-training is given of an image."""
  return PairOfViews(
    size=config.image_size,
    second_size=second_size or 1,
    second_filter=config.second_filter,
    scale=(config.crop_area, 1.0),
    jitter=(config.jitter,) * 3,
    flip=0.5 if config.flip else 0.0,
    grid=(config.grid, config.grid),
    num_masked=config.num_masked,
    masking=config.mask,
    exact=config.exact_mask,
    min_block=config.min_block,
  )


def finetuning_batches(config: Finetune) -> Any:
  """The stream of `image`, augmented, and `label`."""
  return data.train_batches(
    labelled(config),
    config.batch_size,
    config.image_size,
    config.seed,
    transform=labelled_view(config),
    num_workers=config.num_workers,
  )


def labelled_view(config: Finetune) -> Erased:
  """What fine-tuning is given of an image."""
  mean, _ = model.moments(config.normalize)
  red, green, blue = (round((1 + m) * 127.5) for m in mean)
  view = LabelledView(
    size=config.image_size,
    scale=(config.crop_area, 1.0),
    flip=0.5 if config.flip else 0.0,
    magnitude=config.rand_augment,
    fill=(red, green, blue),
    erase=0.0,
  )
  return Erased(view, config.erasing, config.normalize)


def probing_batches(config: Probe, source: Sequence, size: int) -> Any:
  """The stream of `image`, cut at random, and `label`."""
  return data.train_batches(
    source,
    config.batch_size,
    size,
    config.seed,
    transform=LabelledView(
      size=size,
      scale=(config.crop_area, 1.0),
      filter="bilinear",
      flip=0.5 if config.flip else 0.0,
      magnitude=0,
      erase=0.0,
    ),
    num_workers=config.num_workers,
  )


def judging_batches(config: Finetune | Probe, size: int) -> Iterator[Any]:
  """The images of the test split, their centres, once.

  Raises:
    ValueError: they have labels that the network has not.
  """
  name = config.test_dataset or config.dataset
  source = _open(config, name, config.test_split)
  return central_batches(config, source, size)


def central_batches(
  config: Finetune | Probe, source: Sequence, size: int
) -> Iterator[Any]:
  """The centres of images, and their labels, once."""
  return data.eval_batches(
    source, config.batch_size, size, transform=Central(size, config.crop_pct)
  )


def feature_batches(config: Probe, source: "FeatureSource") -> Any:
  """The stream of `features` and `label`."""
  return data.train_batches(
    source,
    config.batch_size,
    None,
    config.seed,
    transform=_without_image,
  )


class FeatureSource(Sequence):
  """Features and labels as a data set, whose images are one black pixel."""

  def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
    """Takes `[N, L, D]` and `[N]`."""
    self._features, self._labels = features, labels

  def __len__(self) -> int:
    return len(self._labels)

  def __getitem__(self, index: Any) -> Any:
    return {
      "image": np.zeros((1, 1, 1), np.uint8),
      "features": self._features[index],
      "label": self._labels[index],
    }


def _without_image(
  example: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
  del rng
  return {"features": example["features"], "label": example["label"]}


@dataclasses.dataclass(frozen=True)
class Subset(Sequence):
  """Some examples of a source, each as often as another."""

  source: Sequence[dict[str, Any]]
  indices: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: Any) -> Any:
    return self.source[self.indices[index]]


def labelled(config: Finetune | Probe) -> Sequence[dict[str, Any]]:
  """The images to train on with labels: those of the split, or a few of them.

  With `config.labels` a subset drawn by the seed, of the same share of every
  class; where it is smaller than a batch it is repeated until it is not.

  Raises:
    ValueError: the split has fewer images, or labels that the network has not.
  """
  source = _open(config, config.dataset, config.split)
  if not config.labels:
    return source
  rng = np.random.default_rng([config.seed, config.labels])
  chosen = stratified(rng, labels_of(source), config.labels)
  times = -(-config.batch_size // len(chosen))
  return Subset(source, tuple(chosen.tolist()) * times)


def _open(config: Finetune | Probe, name: str, split: str) -> data.Source:
  source = data.load(name, split, config.data_dir or None)
  classes = len(source.label_names)
  if classes and classes != config.num_classes:
    raise ValueError(
      f"{name} has {classes} classes, got num_classes = {config.num_classes}"
    )
  return source


def labels_of(source: data.Source) -> np.ndarray:
  """The labels of all examples, without decoding images.

  Raises:
    ValueError: the data set has none.
  """
  records = source.records
  known = getattr(records, "labels", None)  # of a folder of class folders
  if known is not None:
    return np.asarray(known)
  if "label" not in records[0]:
    raise ValueError(f"{source.name} has no labels")
  return np.array([records[i]["label"] for i in range(len(source))])


def stratified(
  rng: np.random.Generator, labels: np.ndarray, n: int
) -> np.ndarray:
  """n indices, sorted, of as equal a share of every class as can be.

  Class k with n_k of the N labels has floor or ceil of n n_k / N of them; where
  numbers must be rounded, those with the largest rests get one more, and what
  is equal is drawn.

  Raises:
    ValueError: there are fewer labels.
  """
  if n > len(labels):
    raise ValueError(f"labels = {n} were asked for of {len(labels)} images")
  classes, counts = np.unique(labels, return_counts=True)
  shares = n * counts / len(labels)
  quotas = np.floor(shares).astype(int)
  rests = shares - quotas + 1e-9 * rng.random(len(classes))
  quotas[np.argsort(-rests)[: n - quotas.sum()]] += 1
  chosen = [
    rng.choice(np.flatnonzero(labels == k), quota, replace=False)
    for k, quota in zip(classes, quotas, strict=True)
  ]
  return np.sort(np.concatenate(chosen))
