"""Coloured squares, with questions and statements that need no download.

What stands in for VQAv2 and NLVR2 where a network is to be seen learning in
minutes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

COLOURS = {
  "red": (220, 40, 40),
  "green": (40, 180, 60),
  "blue": (50, 80, 220),
  "yellow": (230, 210, 40),
}
ANSWERS = ("no", "yes", "1", "2", "3")
SIZES = {"train": 2000, "val": 500}
_CELL, _CELLS = 8, 4  # pixels along a cell, cells along the image


class Shapes(Sequence):
  """Images of one to three squares, 32 x 32, drawn once and for all."""

  def __init__(self, kind: str, split: str) -> None:
    """Draws the examples of a split.

    Args:
      kind: "question" or "statement", what is asked or said of images.
      split: "train" or "val".

    Raises:
      ValueError: there is no such split.
    """
    if split not in SIZES:
      raise ValueError(
        f"shapes has no split {split!r}; it has {', '.join(SIZES)}"
      )
    rng = np.random.default_rng(list(SIZES).index(split))
    make = _question if kind == "question" else _statement
    self.entries = [make(rng, i) for i in range(SIZES[split])]
    self.label_names = ANSWERS if kind == "question" else ("False", "True")

  def __len__(self) -> int:
    return len(self.entries)

  def __getitem__(self, index: Any) -> Any:
    return self.entries[index]


def _question(rng: np.random.Generator, number: int) -> dict[str, Any]:
  """A question of which eight of ten people know the answer."""
  image, colours = _scene(rng)
  if rng.random() < 0.5:
    question = "how many squares are there?"
    right = ANSWERS.index(str(len(colours)))
    others = [2, 3, 4]
  else:
    colour = _a_colour(rng, colours)
    question = f"is there a {colour} square?"
    right = int(colour in colours)
    others = [0, 1]
  others.remove(right)
  return {
    "image": image,
    "question": question,
    "question_id": number,
    "labels": [right, int(rng.choice(others))],
    "counts": [8, 2],
  }


def _statement(rng: np.random.Generator, number: int) -> dict[str, Any]:
  """A statement about two images, as often true as not."""
  wanted = bool(rng.random() < 0.5)
  truth = not wanted
  while truth != wanted:
    (image, left), (other, right) = _scene(rng), _scene(rng)
    colour = _a_colour(rng, left + right)
    both, one = colour in left, colour in right
    truth, statement = (
      (both and one, f"both images have a {colour} square"),
      (both != one, f"one image has a {colour} square"),
      (len(left) > len(right), "there are more squares in the left image"),
    )[number % 3]
  return {
    "image": image,
    "other": other,
    "statement": statement,
    "label": int(wanted),
  }


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
  """An image, and the colours of its squares."""
  image = np.full((_CELL * _CELLS, _CELL * _CELLS, 3), 128, np.uint8)
  colours = rng.choice(list(COLOURS), rng.integers(1, 4)).tolist()
  cells = rng.permutation(_CELLS**2)
  for colour, cell in zip(colours, cells.tolist(), strict=False):
    top, left = (_CELL * place + 1 for place in divmod(cell, _CELLS))
    image[top : top + _CELL - 2, left : left + _CELL - 2] = COLOURS[colour]
  return image, colours


def _a_colour(rng: np.random.Generator, there: list[str]) -> str:
  """One of the scene as often as one of all that it has not."""
  absent = [colour for colour in COLOURS if colour not in there]
  chosen = there if not absent or rng.random() < 0.5 else absent
  return str(rng.choice(chosen))
