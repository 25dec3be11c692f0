"""Batches of images for training and evaluation, one share per host.

A batch is a dict of numpy arrays: `image` float32 [B, H, W, C] in [-1, 1] and,
where the data set has labels, `label` int32 [B]; with a transform, whatever it
returns. `batch_size` counts the whole batch over all hosts; host h of n is
handed rows [h B / n, (h + 1) B / n).
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen.data.images import center_crop_resize, check_image, to_unit
from jaxgen.data.optional import optional
from jaxgen.data.order import about_example, shuffled, shuffled_indices
from jaxgen.data.workers import WorkerBatches

if TYPE_CHECKING:
  import grain

Batch = dict[str, np.ndarray]
Crop = Callable[[np.ndarray, int], np.ndarray]
Tokenize = Callable[[str], np.ndarray]
Example = dict[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]

CACHE_BYTES = 256 * 2**20


def train_batches(
  source: Sequence[dict[str, Any]],
  batch_size: int,
  image_size: int | None,
  seed: int,
  *,
  flip: bool = False,
  crop: Crop | None = None,
  transform: Transform | None = None,
  tokenize: Tokenize | None = None,
  cache: bool | None = None,
  num_threads: int = 0,
  num_workers: int = 0,
  process_index: int | None = None,
  process_count: int | None = None,
) -> "grain.DatasetIterator[Batch] | WorkerBatches":
  """An endless, shuffled iterator of full batches that can be checkpointed.

  One stream of examples runs through a new permutation of the data set in each
  epoch, and batches are cut from it; a batch may span two epochs. The stream,
  and so every batch over all hosts, depends on `seed` alone: neither on the
  number of hosts nor on threads, workers or the cache. `get_state()` and
  `set_state(state)` of the iterator continue it bit for bit, flips included,
  with another number of hosts or workers, too.

  Args:
    source: examples by index with `image`, uint8 [H, W, C]; see `load`.
    batch_size: the number of images over all hosts.
    image_size: the height and width of `image` as it is handed out; None, only
      with a transform, leaves them to it.
    seed: in [0, 2^32).
    flip: mirror each image left-right with probability 1/2.
    crop: `(image, size) -> image`, from `jaxgen.data.images` or your own;
      `center_crop_resize` if None.
    transform: `(example, rng) -> arrays by name`, in the place of crop and
      flip; it makes its random choices with `rng` alone. Every uint8 array of
      rank 3 is an image and brought to [-1, 1]; other arrays are stacked, with
      integers as int32, floats as float32 and uint8 of rank 2, such as label
      maps, as they are. See `jaxgen.data.views` and `jaxgen.data.transforms`.
    tokenize: if given, the batch also has `tokens`, int32 [B, ...]: the
      tokenized `caption` of each example.
    cache: keep the cropped images, or what a transform is given, in memory
      after their first use; by default if all of it takes less than 256 MiB.
    num_threads: threads that prepare batches ahead; 0 prepares them on demand.
    num_workers: processes that do; for data sets whose decoding needs more
      than one core.
    process_index, process_count: this host and how many; JAX's own if None.

  Raises:
    ValueError: batch_size exceeds the data set or does not divide among the
      hosts, crop or flip are given beside a transform, an image is too small,
      ...; errors of the source, of images and of transforms are raised by
      `next` and name the example.
    TypeError: a transform returns something other than arrays by name.
    OSError: the source cannot be read.
  """
  grain = optional("grain")
  share = _Share.make(batch_size, process_index, process_count)
  if len(source) < batch_size:
    raise ValueError(
      f"batch_size={batch_size} is larger than the data set of {len(source)}"
    )
  if not 0 <= seed < 2**32:
    raise ValueError(f"seed must lie in [0, 2^32), got {seed}")
  prepare, change = _preparation(image_size, crop, flip, transform, tokenize)
  examples = _Prepared(source, prepare)
  looks = 1 if transform is None else 8  # raw images differ in size
  if examples.fit_in_memory(looks) if cache is None else cache:
    examples = dataclasses.replace(examples, kept=[None] * len(source))
  stream = shuffled(examples, seed, change)
  order = shuffled_indices(len(source), seed)

  def row(number: int) -> dict[str, np.ndarray]:
    position = share.position(number)
    try:
      return stream[position]
    except Exception as error:
      raise about_example(order[position], error) from error

  def batches(start: int) -> Any:
    rows = grain.MapDataset.range(start * share.size, sys.maxsize).map(row)
    return _collated(rows, share, num_threads)

  if num_workers:
    return WorkerBatches(batches, num_workers)
  return iter(batches(0))


def eval_batches(
  source: Sequence[dict[str, Any]],
  batch_size: int,
  image_size: int | None,
  *,
  crop: Crop | None = None,
  transform: Callable[[Example], Example] | None = None,
  tokenize: Tokenize | None = None,
  num_threads: int = 0,
  process_index: int | None = None,
  process_count: int | None = None,
) -> Iterator[Batch]:
  """One pass over the data in order, without flips.

  Every batch is full and every host is handed the same number of them, so that
  one compiled step serves all: the last is filled up with black images. `mask`,
  bool [B], is True on the examples and False on the filling. The arguments are
  those of `train_batches`, but a transform is `example -> arrays by name`, and
  none of them may be called mask.

  Raises:
    ValueError: the data set is empty, or batch_size does not divide among the
      hosts.
    TypeError: a transform returns something other than arrays by name.
  """
  grain = optional("grain")
  share = _Share.make(batch_size, process_index, process_count)
  if not len(source):
    raise ValueError("the data set is empty")
  if transform is None:
    prepare, _ = _preparation(image_size, crop, False, None, tokenize)
  else:
    _check_alone(crop, False)
    prepare = functools.partial(_transformed, image_size, transform, tokenize)
  examples = _Prepared(source, prepare)
  filling = {key: np.zeros_like(value) for key, value in examples[0].items()}
  if "mask" in filling:
    raise ValueError(
      "the transform of eval_batches may not return `mask`, which says where "
      "a batch has examples"
    )

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
  """What training sees of a source: its examples, prepared.

  `kept`, if there, keeps the examples that were handed out.
  """

  source: Sequence[Example]
  prepare: Callable[[Example], Example]
  kept: list[Example | None] | None = None

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: Any) -> Any:
    example = None if self.kept is None else self.kept[index]
    if example is None:
      try:
        example = self.prepare(self.source[index])
      except Exception as error:
        raise about_example(index, error) from error
      if self.kept is not None:
        # Threads may get here together: they store the same thing.
        self.kept[index] = example
    return example

  def fit_in_memory(self, looks: int) -> bool:
    """Whether CACHE_BYTES hold all, judged by so many of them."""
    seen = range(0, len(self), -(-len(self) // looks))
    sizes = [getattr(v, "nbytes", 0) for i in seen for v in self[i].values()]
    return sum(sizes) * len(self) < CACHE_BYTES * len(seen)


def _preparation(
  size: int | None,
  crop: Crop | None,
  flip: bool,
  transform: Transform | None,
  tokenize: Tokenize | None,
) -> tuple[Callable[[Example], Example], Transform | None]:
  """What is done to an example once, and what anew in each epoch."""
  if transform is not None:
    _check_alone(crop, flip)
    return _raw, functools.partial(_transformed, size, transform, tokenize)
  if size is None:
    raise ValueError("image_size=None is for a transform, which decides it")
  crop = center_crop_resize if crop is None else crop
  prepare = functools.partial(_cropped, size, crop, tokenize)
  return prepare, _random_flip if flip else None


def _check_alone(crop: Crop | None, flip: bool) -> None:
  given = "crop" if crop is not None else "flip" if flip else None
  if given:
    raise ValueError(
      f"a transform takes the place of {given}: give one of them"
    )


def _cropped(
  size: int, crop: Crop, tokenize: Tokenize | None, example: Example
) -> dict[str, np.ndarray]:
  """The image cropped, still uint8, the label and the tokens."""
  image = check_image(crop(check_image(example["image"]), size))
  _check_size(image, size, "crop")
  prepared: dict[str, np.ndarray] = {"image": image}
  if "label" in example:
    prepared["label"] = np.asarray(example["label"], np.int32)
  return prepared | _tokens(tokenize, example)


def _raw(example: Example) -> Example:
  """The example, not to be written to, since it may be kept."""
  check_image(example["image"])
  return {name: _frozen(value) for name, value in example.items()}


def _frozen(value: Any) -> Any:
  if isinstance(value, np.ndarray):
    value = value.view()
    value.flags.writeable = False
  return value


def _transformed(
  size: int | None,
  transform: Callable[..., Example],
  tokenize: Tokenize | None,
  example: Example,
  *rng: np.random.Generator,
) -> dict[str, np.ndarray]:
  """What a transform makes of an example, as arrays, and the tokens."""
  found = transform(dict(example), *rng)
  if not isinstance(found, dict):
    raise TypeError(
      f"a transform returns arrays by name, got {type(found).__name__}"
    )
  arrays = {name: _to_array(name, value) for name, value in found.items()}
  if size is not None and "image" in arrays:
    _check_size(arrays["image"], size, "transform")
  return arrays | _tokens(tokenize, example)


def _to_array(name: str, value: Any) -> np.ndarray:
  array = np.asarray(value)
  if array.dtype == np.uint8 and array.ndim:
    return array
  kinds = {"i": np.int32, "u": np.int32, "f": np.float32, "b": np.bool_}
  if array.dtype.kind not in kinds:
    raise TypeError(
      f"a transform returns numbers, got {name} of type {array.dtype}"
    )
  return array.astype(kinds[array.dtype.kind])


def _check_size(image: np.ndarray, size: int, maker: str) -> None:
  if image.shape[:2] != (size, size):
    got = " x ".join(map(str, image.shape[:2]))
    raise ValueError(f"{maker} returned {got} pixels for image_size={size}")


def _tokens(
  tokenize: Tokenize | None, example: Example
) -> dict[str, np.ndarray]:
  if tokenize is None:
    return {}
  if "caption" not in example:
    raise ValueError("tokenize needs a data set with captions")
  return {"tokens": np.asarray(tokenize(example["caption"]), np.int32)}


def _random_flip(
  example: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
  if rng.random() < 0.5:
    return {**example, "image": example["image"][:, ::-1]}
  return example


def _collated(rows: Any, share: _Share, num_threads: int) -> Any:
  """Batches of this host's rows, prepared ahead by threads."""
  grain = optional("grain")
  return rows.batch(share.size, batch_fn=_collate).to_iter_dataset(
    grain.ReadOptions(num_threads, prefetch_buffer_size=2 * num_threads)
  )


def _collate(examples: Sequence[dict[str, np.ndarray]]) -> Batch:
  """Stacks examples into a batch and brings its images to [-1, 1]."""
  names = sorted(examples[0])
  for example in examples:
    if sorted(example) != names:
      raise ValueError(
        f"the examples of a batch have {names} and {sorted(example)}"
      )
  batch = {}
  for name in examples[0]:
    arrays = [example[name] for example in examples]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
      raise ValueError(f"{name}s of a batch differ in shape: {shapes}")
    stacked = np.stack(arrays)
    is_image = stacked.dtype == np.uint8 and stacked.ndim == 4
    batch[name] = to_unit(stacked) if is_image else stacked
  return batch
