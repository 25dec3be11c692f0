"""Batches for BEiT-3's tasks: questions, statements and captions of images."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.beit3.shapes import Shapes
from experiments.beit3.task_config import Finetune
from jaxgen import data
from jaxgen.data.rand_augment import BEIT3_OPS, rand_augment
from jaxgen.data.sentencepiece import PAD_TOKEN, mask_token
from jaxgen.data.transforms import Box, random_box, random_flip, render
from jaxgen.masked import answer_targets, mask_words

Example = dict[str, Any]


class Spoken(Sequence):
  """Examples with a text of their own each, a question or a statement."""

  def __init__(self, config: Finetune, split: str, text: str) -> None:
    """Opens a split.

    Args:
      config: of the task.
      split: of its data set.
      text: what its examples call their text.

    Raises:
      ValueError: the data set is of another task.
    """
    self._text = text
    if config.dataset == "shapes":
      self._source: Any = Shapes(text, split)
      self._entries = self._source.entries
    else:
      self._source = data.load(config.dataset, split, config.data_dir or None)
      self._entries = getattr(self._source.records, "entries", [{}])
    if self._entries and text not in self._entries[0]:
      kind = "vqav2" if text == "question" else "nlvr2"
      raise ValueError(
        f"{config.dataset} has no {text}s: give --dataset {kind}:ROOT"
      )
    self.label_names: tuple[str, ...] = self._source.label_names

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: Any) -> Any:
    return self._source[index]

  def texts(self) -> Iterator[list[str]]:
    """The text of every example, without the images."""
    return ([entry[self._text]] for entry in self._entries)


@dataclasses.dataclass(frozen=True)
class View:
  """What a network is given of an image.

  Attributes:
    size: height and width.
    crop_area: the smallest share of the image that a random crop may have.
    flip: whether images are flipped at random.
    magnitude: of the random changes; 0 for none.
  """

  size: int
  crop_area: float
  flip: bool
  magnitude: int

  def random(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part, perhaps flipped and changed."""
    height, width, _ = image.shape
    box = random_box(rng, height, width, (self.crop_area, 1.0))
    image = render(image, box, self.size)
    image = random_flip(rng, image, 0.5 if self.flip else 0.0)
    if not self.magnitude:
      return image
    return rand_augment(
      rng,
      image,
      self.magnitude,
      mstd=0.0,
      increasing=False,
      ops=BEIT3_OPS,
      filter="bilinear",
    )

  def whole(self, image: np.ndarray) -> np.ndarray:
    """All of it, to be judged; its shape becomes a square."""
    height, width, _ = image.shape
    return render(image, Box(0, 0, height, width), self.size)


@dataclasses.dataclass(frozen=True)
class Question:
  """A question with how right each answer is.

  Attributes:
    view: of the image.
    tokenizer: of the question.
    num_answers: in the list.
  """

  view: View
  tokenizer: data.TextTokenizer
  num_answers: int

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """`image`, `tokens` and `targets`, to learn from."""
    return self._with(example, self.view.random(example["image"], rng))

  def judged(self, example: Example) -> Example:
    """The same, and `question_id`, to be judged."""
    found = self._with(example, self.view.whole(example["image"]))
    return found | {"question_id": example["question_id"]}

  def _with(self, example: Example, image: np.ndarray) -> Example:
    targets = np.zeros(self.num_answers, np.float32)
    if example.get("labels"):
      targets[example["labels"]] = answer_targets(np.array(example["counts"]))
    tokens = self.tokenizer(example["question"])[0]
    return {"image": image, "tokens": tokens, "targets": targets}


@dataclasses.dataclass(frozen=True)
class Statement:
  """A statement about two images, and whether it is true.

  Attributes:
    view: of each image.
    tokenizer: of the statement.
  """

  view: View
  tokenizer: data.TextTokenizer

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """`image`, `other`, `tokens` and `label`, to learn from."""
    images = [self.view.random(example[n], rng) for n in ("image", "other")]
    return self._with(example, images)

  def judged(self, example: Example) -> Example:
    """The same, to be judged."""
    images = [self.view.whole(example[name]) for name in ("image", "other")]
    return self._with(example, images)

  def _with(self, example: Example, images: list[np.ndarray]) -> Example:
    return {
      "image": images[0],
      "other": images[1],
      "tokens": self.tokenizer(example["statement"])[0],
      "label": example["label"],
    }


@dataclasses.dataclass(frozen=True)
class Caption:
  """One of an image's captions, some of its words masked.

  Attributes:
    view: of the image.
    tokenizer: of the caption.
    share: of the caption's tokens to mask.
  """

  view: View
  tokenizer: data.TextTokenizer
  share: float

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """`image`, `tokens`, `masked` and `word_mask`, to learn from."""
    text = example["texts"][rng.integers(len(example["texts"]))]
    tokens = self.tokenizer(text)
    mask = mask_token(self.tokenizer)
    masked, hidden = mask_words(
      rng, tokens, self.share, mask, PAD_TOKEN, words=(4, mask)
    )
    return {
      "image": self.view.random(example["image"], rng),
      "tokens": tokens[0],
      "masked": masked[0],
      "word_mask": hidden[0],
    }

  def judged(self, example: Example) -> Example:
    """`image`, to be described."""
    return {"image": self.view.whole(example["image"])}


def view_of(config: Finetune) -> View:
  """What a task's network is given of an image."""
  return View(
    config.image_size, config.crop_area, config.flip, config.rand_augment
  )


def training_batches(config: Finetune, source: Sequence, transform: Any) -> Any:
  """The endless stream of what a transform makes of examples."""
  return data.train_batches(
    source,
    config.batch_size,
    None,
    config.seed,
    transform=transform,
    num_workers=config.num_workers,
  )


def judging_batches(
  config: Finetune, source: Sequence, transform: Any
) -> Iterator[Any]:
  """All examples once, as a transform's `judged` gives them."""
  return data.eval_batches(
    source, config.batch_size, None, transform=transform.judged
  )
