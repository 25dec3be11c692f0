"""Images for training: data sets by name, batches, crops, changes, grids.

Captions become tokens. TensorFlow Datasets, grain and PIL are imported on first
use; the `data` extra installs them, and the `text` extra what tokenizers need.
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
from jaxgen.data.order import batch_examples
from jaxgen.data.rand_augment import rand_augment, random_erasing
from jaxgen.data.scenes import DigitScenes
from jaxgen.data.segmentation import SegmentationCrops
from jaxgen.data.sentencepiece import (
  beit3_tokenizer,
  train_unigram_tokenizer,
)
from jaxgen.data.tokenizers import (
  TextTokenizer,
  bert_tokenizer,
  clip_tokenizer,
  clip_tokenizer_of,
  load_tokenizer,
  train_word_tokenizer,
)
from jaxgen.data.transforms import (
  Box,
  color_jitter,
  eval_crop,
  random_box,
  random_flip,
  render,
)
from jaxgen.data.views import BEIT_V1, BEIT_V2, LabelledView, PairOfViews

__all__ = [
  "BEIT_V1",
  "BEIT_V2",
  "Box",
  "DigitScenes",
  "LabelledView",
  "PairOfViews",
  "SegmentationCrops",
  "Source",
  "TextTokenizer",
  "augment",
  "batch_examples",
  "beit3_tokenizer",
  "bert_tokenizer",
  "celeba_crop",
  "center_crop_resize",
  "clip_tokenizer",
  "clip_tokenizer_of",
  "color_jitter",
  "eval_batches",
  "eval_crop",
  "image_grid",
  "load",
  "load_tokenizer",
  "rand_augment",
  "random_box",
  "random_erasing",
  "random_flip",
  "render",
  "save_png",
  "shrink",
  "to_uint8",
  "to_unit",
  "train_batches",
  "train_unigram_tokenizer",
  "train_word_tokenizer",
]
