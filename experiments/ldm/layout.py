"""Bounding boxes as tokens, as latent diffusion's layout-to-image sees them.

The tokens are those of taming-transformers' scene images (Jahn et al. 2021,
"High-Resolution Complex Scene Synthesis with Transformers"): three for each
object, its class and two corners, then two for the corners of the crop.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# (class, x_0, y_0, x_1, y_1), coordinates in [0, 1] from the upper left. The
# class counts num_classes times 1 for a group, 2 for an occluded object, 4 for
# a depiction and 8 for an inside on top.
Box = tuple[int, float, float, float, float]
WHOLE = (0.0, 0.0, 1.0, 1.0)
_MODIFIERS = ("is_group_of", "is_occluded", "is_depiction", "is_inside")


def layout_tokens(
  boxes: Sequence[Box],
  length: int = 92,
  vocab_size: int = 8192,
  crop: Sequence[float] = WHOLE,
) -> np.ndarray:
  """Tokens int32 `[length]` of boxes in an image and the crop shown of it.

  With s = floor(sqrt(vocab_size)), a corner (x, y) is the token
  s round(y (s - 1)) + round(x (s - 1)); an absent object is three times
  vocab_size - 1. Boxes that do not meet the crop are left out, and so are
  those beyond (length - 2) / 3.

  Args:
    boxes: of the whole image.
    length: of the result.
    vocab_size: tokens that there are.
    crop: corners (x_0, y_0, x_1, y_1) of what is shown.

  Raises:
    ValueError: a box is not within the image, or a class has no token.
  """
  side = math.isqrt(vocab_size)

  def corner(x: float, y: float) -> int:
    return side * round(y * (side - 1)) + round(x * (side - 1))

  none = vocab_size - 1
  tokens: list[int] = []
  for label, x_0, y_0, x_1, y_1 in boxes:
    if not (0 <= x_0 <= x_1 <= 1 and 0 <= y_0 <= y_1 <= 1):
      raise ValueError(
        "a box is (class, x_0, y_0, x_1, y_1) with 0 <= x_0 <= x_1 <= 1 and "
        f"the same of y, got {(label, x_0, y_0, x_1, y_1)}"
      )
    if not 0 <= label < none:
      raise ValueError(
        f"a class of a box must lie in [0, {none}), its tokens, got {label}"
      )
    if _meet((x_0, y_0, x_1, y_1), crop):
      tokens += [int(label), corner(x_0, y_0), corner(x_1, y_1)]
  space = (length - 2) // 3 * 3
  tokens = tokens[:space] + [none] * (space - len(tokens))
  tokens += [corner(*crop[:2]), corner(*crop[2:])]
  return np.array(tokens, np.int32)


def boxes_of(example: dict[str, Any], num_classes: int) -> list[Box]:
  """The boxes of an example of TFDS: `bobjects` or, in COCO, `objects`.

  TFDS has (y_0, x_0, y_1, x_1). Classes are numbered as in TFDS, which is not
  how the released weights number them.

  Raises:
    ValueError: the data set has no boxes.
  """
  objects = example.get("bobjects", example.get("objects"))
  if objects is None:
    raise ValueError(
      "condition 'boxes' needs a data set with boxes, such as open_images_v4 "
      f"or coco/2017; this one has {', '.join(example)}"
    )
  modifier = np.zeros(len(objects["label"]), int)
  for i, name in enumerate(_MODIFIERS):
    if name in objects:
      modifier += (np.asarray(objects[name]) == 1) << i
  labels = np.asarray(objects["label"]) + num_classes * modifier
  bounds = np.clip(np.asarray(objects["bbox"]).reshape(-1, 4), 0.0, 1.0)
  return [
    (int(label), float(x_0), float(y_0), float(x_1), float(y_1))
    for label, (y_0, x_0, y_1, x_1) in zip(labels, bounds, strict=True)
  ]


def central_square(
  height: int, width: int
) -> tuple[float, float, float, float]:
  """The corners of `center_crop_resize`'s square, in units of the image."""
  size = min(height, width)
  x, y = (1 - size / width) / 2, (1 - size / height) / 2
  return (x, y, 1 - x, 1 - y)


def _meet(box: Sequence[float], crop: Sequence[float]) -> bool:
  """Whether two rectangles have an area in common."""
  width = min(box[2], crop[2]) - max(box[0], crop[0])
  height = min(box[3], crop[3]) - max(box[1], crop[1])
  return width > 0 and height > 0
