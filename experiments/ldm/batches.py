"""Batches for latent diffusion: images with their tokens, or cached latents."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.ldm.config import Config
from experiments.ldm.files import TOKENIZER
from experiments.ldm.layout import boxes_of, central_square, layout_tokens
from experiments.models import CROPS
from jaxgen import data

# The tokens of bert-base-uncased's empty text: [CLS], [SEP], then [PAD].
_BERT_NOTHING = (101, 102)
Tokenize = Callable[[Any], np.ndarray]


def load_source(config: Config, split: str | None = None) -> Sequence:
  """The examples of a split, by default that of training, with captions.

  Raises:
    ValueError: also if the condition needs what the data set has not.
  """
  source = data.load(
    config.dataset, split or config.split, config.data_dir or None
  )
  if config.condition == "text":
    return _Captioned(source, caption_of)
  if config.condition == "boxes":
    return _Captioned(source, partial(_layout_of, config.num_classes))
  if config.condition == "segmentation":
    raise ValueError(
      "no data set of TFDS has images with the segmentations that "
      f"{config.name} needs: it can only be sampled"
    )
  return source


def caption_of(example: dict[str, Any]) -> str:
  """The caption of an example, the first where there are several.

  Raises:
    ValueError: it has none.
  """
  captions = example.get("captions", {})
  texts = captions.get("text", ()) if isinstance(captions, dict) else captions
  text = example.get("caption", next(iter(texts), None))
  if text is None:
    raise ValueError(
      "condition 'text' needs a data set with captions, such as openmoji/64 or "
      f"coco_captions; this one has {', '.join(example)}"
    )
  return text.decode() if isinstance(text, bytes) else text


def make_tokenize(config: Config, workdir: Path) -> Tokenize | None:
  """What turns a caption into tokens; None if nothing has captions.

  A tokenizer lies in the workdir as tokenizer.json. Where it does not yet, it
  is BERT's, of `config.vocab`, or learned from the captions of the split.
  """
  if config.condition == "boxes":
    return lambda layout: layout_tokens(
      layout[0], config.max_length, config.vocab_size, layout[1]
    )
  if config.condition != "text":
    return None
  tokenizer = read_tokenizer(config, workdir)
  return lambda caption: tokenizer(caption)[0]


def read_tokenizer(config: Config, workdir: Path) -> data.TextTokenizer:
  """The tokenizer of a workdir, made on first use.

  Raises:
    ValueError: it has more tokens than the network.
  """
  path = workdir / TOKENIZER
  if path.is_file():
    return data.load_tokenizer(path)
  length = config.max_length
  if config.vocab:
    tokenizer = data.bert_tokenizer(config.vocab, length)
  else:
    source = load_source(config)
    captions = (source.caption(i) for i in range(len(source)))  # type: ignore[attr-defined]
    tokenizer = data.train_word_tokenizer(captions, config.vocab_size, length)
  if tokenizer.vocab_size > config.vocab_size:
    raise ValueError(
      f"the tokenizer has {tokenizer.vocab_size} tokens, the network "
      f"{config.vocab_size}: set --vocab-size"
    )
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tokenizer.save(temporary)
    os.replace(temporary, path)
  return tokenizer


def nothing(config: Config, tokenize: Tokenize | None) -> Any:
  """What a model trained for guidance is told where it is told nothing.

  One more label than there are classes, or the tokens of the empty text, by
  default BERT's; None for other conditions.
  """
  if config.condition == "class":
    return config.num_classes if config.cond_dropout else None
  if config.condition != "text":
    return None
  if tokenize is not None:
    return tokenize("")
  tokens = np.zeros(config.max_length, np.int32)
  tokens[:2] = _BERT_NOTHING
  return tokens


def image_stream(config: Config, tokenize: Tokenize | None) -> Any:
  """The endless stream of images, labels and tokens."""
  return data.train_batches(
    load_source(config),
    config.batch_size,
    config.image_size,
    config.seed,
    flip=config.flip,
    crop=CROPS[config.crop],
    tokenize=tokenize,
    num_workers=config.num_workers,
  )


def latent_stream(
  config: Config, tokenize: Tokenize | None, latents: np.ndarray
) -> "LatentBatches":
  """The stream of `image_stream`, with `latent` in the place of images.

  Args:
    config: of the model.
    tokenize: of the captions.
    latents: `[1 or 2, N, h, w, c]`: of the images and, if they are flipped, of
      their mirror images; see `latents.cached`.
  """
  source = load_source(config)
  columns = {}
  if tokenize is not None:
    rows = [tokenize(source.caption(i)) for i in range(len(source))]  # type: ignore[attr-defined]
    columns["tokens"] = np.stack(rows)
  if config.condition == "class":
    records = source.records  # type: ignore[attr-defined]
    labels = [records[i]["label"] for i in range(len(source))]
    columns["label"] = np.array(labels, np.int32)
  positions = data.train_batches(
    _Positions(len(source)),
    config.batch_size,
    _Positions.SIZE,
    config.seed,
    flip=config.flip,
    crop=lambda image, size: image,
    num_threads=1,  # ahead of a device that is faster than the order is made
  )
  return LatentBatches(positions, latents, columns)


class LatentBatches:
  """Rows of arrays, in the order of a stream of positions."""

  def __init__(
    self, positions: Any, latents: np.ndarray, columns: dict[str, np.ndarray]
  ) -> None:
    """Takes a stream over `_Positions`, latents and what else rows have."""
    self._positions, self._latents = positions, latents
    self._columns = columns

  def __iter__(self) -> "LatentBatches":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    batch = next(self._positions)
    row, mirrored = batch["label"], batch["image"][:, 0, 0, 0] > 0
    found = {name: column[row] for name, column in self._columns.items()}
    return {"latent": self._latents[mirrored.astype(int), row], **found}

  def get_state(self) -> Any:
    """The position in the stream."""
    return self._positions.get_state()

  def set_state(self, state: Any) -> None:
    """Continues from a position that `get_state` returned."""
    self._positions.set_state(state)


@dataclasses.dataclass(frozen=True)
class _Positions(Sequence):
  """Examples that say where they are, in images that show if they are flipped.

  Batches of them run through a data set as batches of its images do.
  """

  size: int
  SIZE = 2

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index):
    image = np.array([[0, 255], [0, 255]], np.uint8)[..., None]
    return {"image": image, "label": index}


@dataclasses.dataclass(frozen=True)
class _Captioned(Sequence):
  """Examples of a source whose `caption` is made from the rest."""

  source: data.Source
  of: Callable[[dict[str, Any]], Any]

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index):
    example = self.source[index]
    return {**example, "caption": self.of(example)}

  def caption(self, index: int) -> Any:
    """The caption alone; only boxes need the image's size."""
    if self.of is caption_of:
      return caption_of(self.source.records[index])
    return self[index]["caption"]


def _layout_of(num_classes: int, example: dict[str, Any]) -> tuple[Any, Any]:
  """The boxes of an example and the crop that is shown of it."""
  height, width = example["image"].shape[:2]
  return boxes_of(example, num_classes), central_square(height, width)
