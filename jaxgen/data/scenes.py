"""Scenes of several digits with a label for every pixel, without download."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

NUM_CLASSES = 11  # 0 is the background, d + 1 the digit d
_INK = 128  # from which level a pixel belongs to its digit
_APART = 20  # MNIST's digits fit into 20 x 20 pixels
_TRIES = 20


@dataclasses.dataclass(frozen=True)
class DigitScenes(Sequence):
  """Two to five MNIST digits on black, as a data set of segmentation.

  Scene i depends on the seed and on i alone: its height and width, and digits
  drawn from the source at places so far apart that hardly any two touch.

  Attributes:
    source: examples with `image`, uint8 `[28, 28, 1]`, and `label`; "mnist5k".
    length: how many scenes there are.
    seed: numbers that tell these scenes from others.
    smallest, largest: heights and widths.
  """

  source: Sequence[dict[str, Any]]
  length: int
  seed: tuple[int, ...] = (0,)
  smallest: int = 56
  largest: int = 84

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: Any) -> Any:
    """`image`, uint8 `[H, W, 1]`, and `segmentation`, uint8 `[H, W]`."""
    index = range(self.length)[index]
    rng = np.random.default_rng((*self.seed, index))
    size = rng.integers(self.smallest, self.largest + 1, 2)
    image, labels = np.zeros((2, *size), np.uint8)
    taken: list[np.ndarray] = []
    for _ in range(rng.integers(2, 6)):
      place = _free_place(size, taken, rng)
      if place is None:
        continue
      taken.append(place)
      digit = self.source[int(rng.integers(len(self.source)))]
      ink = digit["image"][..., 0]
      box = tuple(slice(start, start + 28) for start in place)
      image[box] = np.maximum(image[box], ink)
      labels[box][ink >= _INK] = int(digit["label"]) + 1
    return {"image": image[..., None], "segmentation": labels}


def _free_place(
  size: np.ndarray, taken: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray | None:
  for _ in range(_TRIES):
    place = rng.integers(0, size - 27)
    if all(np.abs(place - other).max() >= _APART for other in taken):
      return place
  return None
