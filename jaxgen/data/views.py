"""What BEiT is given of an image: transforms for `jaxgen.data.train_batches`.

  batches = train_batches(source, 2048, 224, seed, transform=BEIT_V1)

has `image` for the Transformer, `second` for the tokenizer and `mask`. From
JPEGs of 500 x 381 pixels one core (AMD EPYC) makes about 125 such pairs a
second; `num_workers` takes more cores.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from jaxgen.data.images import to_unit
from jaxgen.data.rand_augment import FILL, rand_augment, random_erasing
from jaxgen.data.transforms import (
  Filter,
  color_jitter,
  random_box,
  random_flip,
  render,
)
from jaxgen.masked import blockwise_mask, random_mask


@dataclasses.dataclass(frozen=True)
class PairOfViews:
  """One part of an image at two sizes, and the patches to mask.

  Bao et al. 2022, "BEiT", App. H, and its published code: colours are
  jittered, the image is flipped or not, and one random box is rendered twice.
  Gray images keep their saturation, and any may be smaller than the views.

  `views(example, rng)` is a dict of `image`, uint8 [size, size, C]; `second`,
  uint8 [second_size, second_size, C]; and `mask`, bool `grid`.

  Attributes:
    size: of the view for the Transformer.
    second_size: of the view for the tokenizer.
    filter: renders the first view.
    second_filter: renders the second.
    scale: range of the box's share of the area.
    ratio: range of its width over its height.
    jitter: of brightness, contrast and saturation; see `color_jitter`.
    flip: probability that both views are mirrored.
    grid: rows and columns of patches of both views.
    num_masked: patches to mask; 0 for none.
    masking: in blocks, or single patches.
    exact: blocks mask num_masked patches, as in BEiT v2, instead of at most so
      many; see `blockwise_mask`.
    min_block: patches of the smallest block.
  """

  size: int = 224
  second_size: int = 112
  filter: Filter = "bicubic"
  second_filter: Filter = "lanczos"
  scale: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  jitter: tuple[float, float, float] = (0.4, 0.4, 0.4)
  flip: float = 0.5
  grid: tuple[int, int] = (14, 14)
  num_masked: int = 75
  masking: Literal["blockwise", "random"] = "blockwise"
  exact: bool = False
  min_block: int = 16

  def __post_init__(self) -> None:
    if self.masking not in ("blockwise", "random"):
      raise ValueError(f"masking is blockwise or random, got {self.masking!r}")

  def __call__(
    self, example: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    """The views and the mask of an example with `image`."""
    image = color_jitter(rng, example["image"], *self.jitter)
    image = random_flip(rng, image, self.flip)
    height, width, _ = image.shape
    box = random_box(rng, height, width, self.scale, self.ratio)
    return {
      "image": render(image, box, self.size, self.filter),
      "second": render(image, box, self.second_size, self.second_filter),
      "mask": self._mask(rng),
    }

  def _mask(self, rng: np.random.Generator) -> np.ndarray:
    if self.masking == "random":
      return random_mask(rng, self.grid, self.num_masked)
    return blockwise_mask(
      rng,
      self.grid,
      self.num_masked,
      exact=self.exact,
      min_block=self.min_block,
    )


BEIT_V1 = PairOfViews()
BEIT_V2 = PairOfViews(
  second_size=224, second_filter="bicubic", scale=(0.2, 1.0), exact=True
)


@dataclasses.dataclass(frozen=True)
class LabelledView:
  """A random part of an image, changed much, for training a classifier.

  A random box at the size of the network, flipped or not; RandAugment
  (`rand_augment`); then, in [-1, 1], random erasing. The defaults are those of
  BEiT's fine-tuning; `magnitude=0, erase=0` are those of its linear probe.

  `view(example, rng)` is a dict of `image`, float32 [size, size, C], and
  `label`.

  Attributes:
    size: height and width.
    scale: range of the box's share of the area.
    filter: renders the box.
    flip: probability that the view is mirrored.
    magnitude: of RandAugment, up to 10; 0 leaves it out.
    layers: changes that RandAugment chooses.
    magnitude_std: by which their magnitudes vary.
    fill: the colour of what RandAugment moves in, as a rule the mean colour;
      (124, 116, 104) is ImageNet's.
    erase: probability of random erasing.
  """

  size: int = 224
  scale: tuple[float, float] = (0.08, 1.0)
  filter: Filter = "bicubic"
  flip: float = 0.5
  magnitude: float = 9.0
  layers: int = 2
  magnitude_std: float = 0.5
  fill: tuple[int, int, int] = FILL
  erase: float = 0.25

  def __call__(
    self, example: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """The view and the label of an example."""
    image = example["image"]
    height, width, _ = image.shape
    box = random_box(rng, height, width, self.scale)
    image = render(image, box, self.size, self.filter)
    image = random_flip(rng, image, self.flip)
    if self.magnitude:
      image = rand_augment(
        rng,
        image,
        self.magnitude,
        self.layers,
        self.magnitude_std,
        fill=self.fill,
      )
    image = random_erasing(rng, to_unit(image), self.erase)
    return {"image": image, "label": example["label"]}
