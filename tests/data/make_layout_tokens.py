"""Writes layout_tokens.json: boxes, and the original's tokens of them.

  python make_layout_tokens.py DIRECTORY

DIRECTORY is a checkout of CompVis/taming-transformers. Its builder shuffles the
boxes, which is switched off here, and draws figures, which is not needed:
stand-ins do for what that imports. Needs torch and PIL.
"""

import json
import random
import sys
import types
from pathlib import Path

import numpy as np

CLASSES, OBJECTS, TOKENS = 340, 30, 8192


def stub(name: str, **attributes: object) -> None:
  module = types.ModuleType(name)
  module.__dict__.update(attributes)
  sys.modules[name] = module


def main(directory: str) -> None:
  recipes = "more_itertools.recipes"
  stub("more_itertools")
  stub(recipes, grouper=None)
  stub("taming.data.image_transforms", convert_pil_to_tensor=None)
  sys.path.insert(0, directory)
  from taming.data.conditional_builder import objects_bbox
  from taming.data.helper_types import Annotation

  random.shuffle = lambda items: None
  builder = objects_bbox.ObjectsBoundingBoxConditionalBuilder(
    CLASSES, OBJECTS, TOKENS, True, True, True
  )
  rng = np.random.default_rng(0)
  cases = []
  for count in (1, 5, 28):
    corners = np.sort(rng.random((count + 1, 2, 2)).round(3), axis=1)
    flags = rng.integers(0, 2, (count, 4))
    labels = rng.integers(0, CLASSES, count)
    x_0, y_0, x_1, y_1 = crop = corners[-1].ravel().tolist()
    boxes, annotations = [], []
    for label, flag, box in zip(labels, flags, corners[:-1], strict=True):
      left, top, right, bottom = box.ravel().tolist()
      group, occluded, depiction, inside = map(bool, flag)
      annotation = Annotation(
        area=1.0,
        image_id="",
        category_id="",
        bbox=(left, top, right - left, bottom - top),
        category_no=int(label),
        is_group_of=group,
        is_occluded=occluded,
        is_depiction=depiction,
        is_inside=inside,
      )
      annotations.append(annotation)
      modifier = int(flag @ [1, 2, 4, 8])
      number = int(label) + CLASSES * modifier
      boxes.append([number, left, top, right, bottom])
    shown = (x_0, y_0, x_1 - x_0, y_1 - y_0)
    tokens = builder.build(annotations, shown).tolist()
    cases.append({"boxes": boxes, "crop": crop, "tokens": tokens})
  target = Path(__file__).with_name("layout_tokens.json")
  target.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
  main(sys.argv[1])
