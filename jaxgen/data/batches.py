"""Batches of images for training and evaluation, one share per host.

A batch is a dict of numpy arrays: `image` float32 [B, H, W, C] in [-1, 1] and,
where the data set has labels, `label` int32 [B]. `batch_size` counts the whole
batch over all hosts; host h of n is handed rows [h B / n, (h + 1) B / n).
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen.data.images import center_crop_resize, check_image, to_unit
from jaxgen.data.optional import optional

if TYPE_CHECKING:
  import grain

Batch = dict[str, np.ndarray]
Crop = Callable[[np.ndarray, int], np.ndarray]
Tokenize = Callable[[str], np.ndarray]

CACHE_BYTES = 256 * 2**20


def train_batches(
  source: Sequence[dict[str, Any]],
  batch_size: int,
  image_size: int,
  seed: int,
  *,
  flip: bool = False,
  crop: Crop = center_crop_resize,
  tokenize: Tokenize | None = None,
  cache: bool | None = None,
  num_threads: int = 0,
  num_workers: int = 0,
  process_index: int | None = None,
  process_count: int | None = None,
) -> "grain.DatasetIterator[Batch]":
  """An endless, shuffled iterator of full batches that can be checkpointed.

  One stream of examples runs through a new permutation of the data set in each
  epoch, and batches are cut from it; a batch may span two epochs. The stream,
  and so every batch over all hosts, depends on `seed` alone: neither on the
  number of hosts nor on threads, workers or the cache. `get_state()` and
  `set_state(state)` of the iterator continue it bit for bit, flips included.

  Args:
    source: examples by index with `image`, uint8 [H, W, C]; see `load`.
    batch_size: the number of images over all hosts.
    image_size: the height and width of the images handed out.
    seed: in [0, 2^32).
    flip: mirror each image left-right with probability 1/2.
    crop: `(image, size) -> image`, from `jaxgen.data.images` or your own.
    tokenize: if given, the batch also has `tokens`, int32 [B, ...]: the
      tokenized `caption` of each example.
    cache: keep the cropped images in memory after their first use; by default
      if the whole data set takes less than 256 MiB.
    num_threads: threads that prepare batches ahead; 0 prepares them on demand.
    num_workers: processes that do; for data sets whose decoding needs more
      than one core. The state of an iterator fits only the same number.
    process_index, process_count: this host and how many; JAX's own if None.

  Raises:
    ValueError: batch_size exceeds the data set or does not divide among the
      hosts, an image is too small, ...; image errors are raised by `next`.
  """
  grain = optional("grain")
  share = _Share.make(batch_size, process_index, process_count)
  if len(source) < batch_size:
    raise ValueError(
      f"batch_size={batch_size} is larger than the data set of {len(source)}"
    )
  if not 0 <= seed < 2**32:
    raise ValueError(f"seed must lie in [0, 2^32), got {seed}")
  examples = _Prepared(source, image_size, crop, tokenize)
  if examples.fit_in_memory() if cache is None else cache:
    examples = dataclasses.replace(examples, kept=[None] * len(source))
  stream = _shuffled(examples, seed, flip)
  rows = grain.MapDataset.range(sys.maxsize).map(
    lambda row: stream[share.position(row)]
  )
  return iter(_collated(rows, share, num_threads, num_workers))


def eval_batches(
  source: Sequence[dict[str, Any]],
  batch_size: int,
  image_size: int,
  *,
  crop: Crop = center_crop_resize,
  tokenize: Tokenize | None = None,
  num_threads: int = 0,
  process_index: int | None = None,
  process_count: int | None = None,
) -> Iterator[Batch]:
  """One pass over the data in order, without flips.

  Every batch is full and every host is handed the same number of them, so that
  one compiled step serves all: the last is filled up with black images. `mask`,
  bool [B], is True on the examples and False on the filling. The arguments are
  those of `train_batches`.

  Raises:
    ValueError: the data set is empty, or batch_size does not divide among the
      hosts.
  """
  grain = optional("grain")
  share = _Share.make(batch_size, process_index, process_count)
  if not len(source):
    raise ValueError("the data set is empty")
  examples = _Prepared(source, image_size, crop, tokenize)
  filling = {key: np.zeros_like(value) for key, value in examples[0].items()}

  def row(index: int) -> dict[str, np.ndarray]:
    position = share.position(index)
    real = position < len(source)
    return {**(examples[position] if real else filling), "mask": np.bool_(real)}

  count = -(-len(source) // batch_size) * share.size
  rows = grain.MapDataset.range(count).map(row)
  return iter(_collated(rows, share, num_threads))


@dataclasses.dataclass(frozen=True)
class _Share:
  """This host's rows of every batch: `size` of them from `offset`."""

  batch_size: int
  offset: int
  size: int

  @classmethod
  def make(
    cls, batch_size: int, index: int | None, count: int | None
  ) -> "_Share":
    index = jax.process_index() if index is None else index
    count = jax.process_count() if count is None else count
    if not 0 <= index < count:
      raise ValueError(f"there is no process {index} of {count}")
    if batch_size < 1 or batch_size % count:
      raise ValueError(
        f"batch_size must be a positive multiple of the {count} processes, "
        f"got {batch_size}"
      )
    size = batch_size // count
    return cls(batch_size, index * size, size)

  def position(self, row: int) -> int:
    """Where this host's row lies in the order shared by all hosts."""
    batch, row = divmod(row, self.size)
    return batch * self.batch_size + self.offset + row


@dataclasses.dataclass(frozen=True)
class _Prepared(Sequence):
  """What training sees of a source: images cropped, still uint8.

  `kept`, if there, keeps the examples that were handed out.
  """

  source: Sequence[dict[str, Any]]
  size: int
  crop: Crop
  tokenize: Tokenize | None
  kept: list[dict[str, np.ndarray] | None] | None = None

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: Any) -> Any:
    if self.kept is None:
      return self._prepare(self.source[index])
    example = self.kept[index]
    if example is None:
      # Threads may get here together: they store the same thing.
      example = self.kept[index] = self._prepare(self.source[index])
    return example

  def fit_in_memory(self) -> bool:
    size = sum(value.nbytes for value in self[0].values())
    return size * len(self) < CACHE_BYTES

  def _prepare(self, example: dict[str, Any]) -> dict[str, np.ndarray]:
    image = check_image(self.crop(check_image(example["image"]), self.size))
    if image.shape[:2] != (self.size, self.size):
      raise ValueError(
        f"crop returned {image.shape[0]} x {image.shape[1]} pixels for "
        f"image_size={self.size}"
      )
    prepared: dict[str, np.ndarray] = {"image": image}
    if "label" in example:
      prepared["label"] = np.asarray(example["label"], np.int32)
    if self.tokenize is not None:
      if "caption" not in example:
        raise ValueError("tokenize needs a data set with captions")
      tokens = self.tokenize(example["caption"])
      prepared["tokens"] = np.asarray(tokens, np.int32)
    return prepared


def _shuffled(examples: _Prepared, seed: int, flip: bool) -> Any:
  """The endless stream of examples, a grain MapDataset."""
  shuffle_seed, flip_seed = np.random.SeedSequence(seed).generate_state(2)
  stream = optional("grain").MapDataset.source(examples)
  stream = stream.shuffle(int(shuffle_seed)).repeat()
  if flip:
    stream = stream.random_map(_random_flip, seed=int(flip_seed))
  return stream


def _random_flip(
  example: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
  if rng.random() < 0.5:
    return {**example, "image": example["image"][:, ::-1]}
  return example


def _collated(
  rows: Any, share: _Share, num_threads: int, num_workers: int = 0
) -> Any:
  """Batches of this host's rows, prepared ahead by threads and processes."""
  grain = optional("grain")
  batches = rows.batch(share.size, batch_fn=_collate).to_iter_dataset(
    grain.ReadOptions(num_threads, prefetch_buffer_size=2 * num_threads)
  )
  if not num_workers:
    return batches
  # grain reads absl flags, which only absl's own main parses.
  optional("absl.flags").FLAGS.mark_as_parsed()
  return batches.mp_prefetch(
    grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2)
  )


def _collate(examples: Sequence[dict[str, np.ndarray]]) -> Batch:
  """Stacks examples into a batch and brings its images to [-1, 1]."""
  try:
    batch = {
      key: np.stack([example[key] for example in examples])
      for key in examples[0]
    }
  except ValueError as error:
    shapes = {example["image"].shape for example in examples}
    raise ValueError(
      f"the images or tokens of a batch differ in shape: {sorted(shapes)}"
    ) from error
  return {**batch, "image": to_unit(batch["image"])}
