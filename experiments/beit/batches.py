"""Batches for BEiT: pairs of views, augmented images, images to judge by."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.beit.config import Pretrain
from experiments.beit.finetune_config import Finetune
from jaxgen import data


def pretraining_batches(config: Pretrain, second_size: int) -> Any:
  """The stream of `image`, `second` and `mask`.

  Args:
    config: of the pre-training.
    second_size: height and width of the tokenizer's view; 0 for none.
  """
  views = data.views.BeitViews(config, second_size)
  return data.train_batches(
    data.load(config.dataset, config.split, config.data_dir or None),
    config.batch_size,
    config.image_size,
    config.seed,
    transform=views,
    num_workers=config.num_workers,
  )


@dataclasses.dataclass(frozen=True)
class Subset(Sequence):
  """Some examples of a source, each as often as another."""

  source: Sequence[dict[str, Any]]
  indices: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: Any) -> Any:
    return self.source[self.indices[index]]


def labelled(config: Finetune) -> Sequence[dict[str, Any]]:
  """The images that fine-tuning sees: those of the split, or a few of them.

  With `config.labels` a subset drawn by the seed, of the same share of every
  class; where it is smaller than a batch it is repeated until it is not.

  Raises:
    ValueError: the split has fewer images, or labels that the network has not.
  """
  source = data.load(config.dataset, config.split, config.data_dir or None)
  classes = len(source.label_names)
  if classes and classes != config.num_classes:
    raise ValueError(
      f"{config.dataset} has {classes} classes, got num_classes = "
      f"{config.num_classes}"
    )
  if not config.labels:
    return source
  rng = np.random.default_rng([config.seed, config.labels])
  chosen = stratified(rng, labels_of(source), config.labels)
  times = -(-config.batch_size // len(chosen))
  return Subset(source, tuple(chosen.tolist()) * times)


def labels_of(source: data.Source) -> np.ndarray:
  """The labels of all examples, without decoding images.

  Raises:
    ValueError: the data set has none.
  """
  records = source.records
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
