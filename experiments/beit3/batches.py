"""Batches for BEiT-3: images, texts and pairs, with what is masked of them."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.beit3.config import Pretrain
from experiments.beit3.retrieval_config import Retrieval
from experiments.beit3.task_config import Finetune
from jaxgen import data
from jaxgen.data.sentencepiece import PAD_TOKEN, mask_token
from jaxgen.masked import mask_words

Config = Pretrain | Retrieval | Finetune


def captions_of(example: Mapping[str, Any]) -> list[str]:
  """The captions of an example, decoded or not.

  Raises:
    ValueError: its data set has none.
  """
  if "caption" in example:
    found = [example["caption"]]
  elif "captions" in example:
    captions = example["captions"]
    found = captions["text"] if isinstance(captions, dict) else captions
  else:
    raise ValueError(
      "BEiT-3 needs a data set with captions, such as openmoji/32, "
      f"coco_captions or karpathy:ROOT; this one has {', '.join(example)}"
    )
  return [x.decode() if isinstance(x, bytes) else str(x) for x in found]


class Pairs(Sequence):
  """The examples of a source that have a caption, with `texts`, all of them."""

  def __init__(self, config: Config, split: str) -> None:
    """Loads a split; in openmoji pictograms have no name and are left out."""
    name = config.dataset
    self._source = data.load(name, split, config.data_dir or None)
    count = len(self._source)
    self._rows = list(range(count))
    if name.startswith("openmoji"):
      self._rows = [i for i in range(count) if any(self._texts(i))]

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: Any) -> Any:
    row = self._rows[index]
    example = self._source[row]
    return {"image": example["image"], "texts": captions_of(example)}

  def _texts(self, row: int) -> list[str]:
    return captions_of(self._record(row))

  def _record(self, row: int) -> Mapping[str, Any]:
    """The undecoded example; of a folder, without its image."""
    records = self._source.records
    return getattr(records, "entries", records)[row]

  def texts(self) -> Iterator[list[str]]:
    """The captions of every example, without the images."""
    return (self._texts(row) for row in self._rows)

  def numbers(self) -> Iterator[int]:
    """The examples' numbers, those of COCO's images; else they are counted."""
    for row in self._rows:
      record = self._record(row)
      yield int(record.get("image_id", record.get("image/id", row)))


class Texts(Sequence):
  """The captions of pairs alone, whose images are one black pixel."""

  def __init__(self, pairs: Pairs) -> None:
    """Reads all captions."""
    self._texts = list(pairs.texts())

  def __len__(self) -> int:
    return len(self._texts)

  def __getitem__(self, index: Any) -> Any:
    pixel = np.zeros((1, 1, 1), np.uint8)
    return {"image": pixel, "texts": self._texts[index]}


def read_tokenizer(
  config: Config, workdir: Path, pairs: Any, other: Path | None = None
) -> data.TextTokenizer:
  """The text tokenizer of a workdir, made on first use.

  It is the published one, of `config.spm`; that of another run; or learnt from
  the captions.

  Args:
    config: of the experiment.
    workdir: has, or gets, its tokenizer.json.
    pairs: to learn from, `pairs.texts()`.
    other: the workdir of another run, whose tokenizer is taken over, whatever
      the length of its texts.

  Raises:
    ValueError: it has more tokens than the network, or texts of another length.
  """
  path = workdir / "tokenizer.json"
  if path.is_file():
    tokenizer = data.load_tokenizer(path)
  elif config.spm:
    tokenizer = data.beit3_tokenizer(config.spm, config.max_length)
  elif other is not None:
    tokenizer = data.load_tokenizer(other / "tokenizer.json")
    tokenizer = tokenizer.of_length(config.max_length)
  else:
    captions = (text for texts in pairs.texts() for text in texts)
    tokenizer = data.train_unigram_tokenizer(
      captions, config.vocab_size, config.max_length
    )
  if tokenizer.vocab_size > config.vocab_size:
    raise ValueError(
      f"the tokenizer has {tokenizer.vocab_size} tokens, the network "
      f"{config.vocab_size}: set --vocab-size"
    )
  if tokenizer.length != config.max_length:
    raise ValueError(
      f"the tokenizer's texts have {tokenizer.length} tokens, not "
      f"{config.max_length}: set --max-length"
    )
  if jax.process_index() == 0 and not path.is_file():
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tokenizer.save(temporary)
    os.replace(temporary, path)
  return tokenizer


@dataclasses.dataclass(frozen=True)
class Masked:
  """What pre-training is given of an example: views, a masked text, or both.

  Attributes:
    views: of the image; None for texts alone.
    tokenizer: of the texts; None for images alone.
    share: of a text's tokens to mask.
  """

  views: data.PairOfViews | None
  tokenizer: data.TextTokenizer | None
  share: float = 0.0

  def __call__(
    self, example: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """`image`, `second`, `mask`; `tokens`, `masked`, `word_mask`."""
    found: dict[str, Any] = {}
    if self.views is not None:
      found |= self.views(example, rng)
      found["mask"] = found["mask"].ravel()
    if self.tokenizer is not None:
      text = example["texts"][rng.integers(len(example["texts"]))]
      tokens = self.tokenizer(text)
      mask = mask_token(self.tokenizer)
      masked, hidden = mask_words(
        rng, tokens, self.share, mask, PAD_TOKEN, words=(4, mask)
      )
      names = ("tokens", "masked", "word_mask")
      rows = (tokens[0], masked[0], hidden[0])
      found |= dict(zip(names, rows, strict=True))
    return found


@dataclasses.dataclass(frozen=True)
class Pair:
  """What retrieval is given of an example: a view and a caption.

  Attributes:
    views: of the image.
    tokenizer: of the captions.
  """

  views: data.PairOfViews
  tokenizer: data.TextTokenizer

  def __call__(
    self, example: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """`image` and `tokens`, of one of the captions."""
    text = example["texts"][rng.integers(len(example["texts"]))]
    image = self.views(example, rng)["image"]
    return {"image": image, "tokens": self.tokenizer(text)[0]}


class Streams:
  """Several streams side by side; a name is "stream_array"."""

  def __init__(self, streams: dict[str, Any]) -> None:
    """Takes iterators that can be checkpointed, by name."""
    self._streams = streams

  def __iter__(self) -> "Streams":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    return {
      f"{name}_{key}": array
      for name, stream in self._streams.items()
      for key, array in next(stream).items()
    }

  def get_state(self) -> dict[str, Any]:
    """The positions in the streams."""
    return {name: s.get_state() for name, s in self._streams.items()}

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from positions that `get_state` returned."""
    for name, stream in self._streams.items():
      stream.set_state(state[name])


def pretraining_batches(
  config: Pretrain,
  pairs: Pairs,
  tokenizer: data.TextTokenizer,
  second_size: int,
) -> Streams:
  """The streams "image", "text" and "pair", each in an order of its own.

  Args:
    config: of the pre-training.
    pairs: images with captions.
    tokenizer: of the texts.
    second_size: height and width of the image tokenizer's view.
  """
  images: Sequence = pairs
  if config.image_dataset:
    folder = config.data_dir or None
    images = data.load(config.image_dataset, config.image_split, folder)
  views = data.PairOfViews(
    size=config.image_size,
    second_size=second_size,
    second_filter="bicubic",
    scale=(config.crop_area, 1.0),
    jitter=(config.jitter,) * 3,
    flip=0.5 if config.flip else 0.0,
    grid=(config.grid, config.grid),
    num_masked=config.num_masked,
    exact=True,
    min_block=config.min_block,
  )
  kinds = {
    "image": (images, Masked(views, None)),
    "text": (Texts(pairs), Masked(None, tokenizer, config.text_share)),
    "pair": (pairs, Masked(views, tokenizer, config.pair_share)),
  }
  seeds = np.random.SeedSequence(config.seed).generate_state(3)
  return Streams(
    {
      name: data.train_batches(
        source,
        config.batch_size,
        None,
        int(seed),
        transform=transform,
        num_workers=config.num_workers,
      )
      for (name, (source, transform)), seed in zip(
        kinds.items(), seeds, strict=True
      )
    }
  )


def retrieval_batches(
  config: Retrieval, pairs: Pairs, tokenizer: data.TextTokenizer
) -> Any:
  """The stream of `image` and `tokens`."""
  views = data.PairOfViews(
    size=config.image_size,
    second_size=1,
    scale=(config.crop_area, 1.0),
    jitter=(0.0,) * 3,
    flip=0.5 if config.flip else 0.0,
    num_masked=0,
  )
  return data.train_batches(
    pairs,
    config.batch_size,
    None,
    config.seed,
    transform=Pair(views, tokenizer),
    num_workers=config.num_workers,
  )
