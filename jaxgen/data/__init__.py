"""Images for training: data sets by name, batches, crops, changes, grids.

TensorFlow Datasets, grain and PIL are imported on first use; the `data` extra
installs them.
"""

from jaxgen.data.augmentation import augment
from jaxgen.data.batches import eval_batches, train_batches
from jaxgen.data.images import (
  celeba_crop,
  center_crop_resize,
  image_grid,
  save_png,
  shrink,
  to_uint8,
  to_unit,
)
from jaxgen.data.loading import Source, load

__all__ = [
  "Source",
  "augment",
  "celeba_crop",
  "center_crop_resize",
  "eval_batches",
  "image_grid",
  "load",
  "save_png",
  "shrink",
  "to_uint8",
  "to_unit",
  "train_batches",
]
