"""How BEiT-3 is fine-tuned: the released README's commands, the paper's tables.

AdamW (0.9, 0.999), epsilon 1e-8, no clipping; the rate rises linearly from 0
over the warm-up and falls to 1e-6 along half a cosine. The base and the large
network are the release's, the giant one is the paper's (Wang et al. 2023,
Tables 12, 14 and 17), where what the tables leave out is as the release has it:
the last rate, random changes of images, the rate of the head. Captions of the
giant network, which are counted in steps, are in `task_config`, its
segmentation in `segment_config`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
  """One fine-tuning of a network.

  Attributes:
    lr: highest rate.
    epochs: of the training set.
    warmup: epochs in which the rate rises.
    batch_size: over all devices.
    layer_decay: of the rate, from each layer to the one below.
    drop_path: rate of stochastic depth in the last block.
    weight_decay: AdamW's.
    image_size: height and width.
    max_length: tokens of texts.
    b2: AdamW's second beta.
    head_rate: what the rate of the last layers is multiplied by.
    rand_augment: two changes of magnitude 7 (ImageNet: its own, of 9).
    indomain_lr: the rate from the "indomain" weights, where it differs.
  """

  lr: float
  epochs: int
  warmup: int
  batch_size: int
  layer_decay: float
  drop_path: float
  weight_decay: float
  image_size: int
  max_length: int = 64
  b2: float = 0.999
  head_rate: float = 1.0
  rand_augment: bool = False
  indomain_lr: float | None = None


def _vqa(lr: float, drop_path: float) -> Recipe:
  return Recipe(
    *(lr, 10, 1, 128, 1.0, drop_path, 0.01, 480),
    b2=0.98,
    head_rate=20.0,
    rand_augment=True,
  )


def _captions(lr: float) -> Recipe:
  return Recipe(
    *(lr, 10, 1, 256, 1.0, 0.1, 0.05, 480), max_length=32, rand_augment=True
  )


# Mixup 0.8, CutMix 1, random erasing 0.25 and label smoothing 0.1 belong to
# "imagenet"; a masked share of 0.7, and 20% of the words dropped from update
# 12,000 on, to captions.
RECIPES = {
  "imagenet_base": Recipe(7e-4, 50, 5, 1024, 0.65, 0.15, 0.05, 224),
  "imagenet_large": Recipe(2e-4, 50, 5, 1024, 0.8, 0.25, 0.05, 224),
  # Before, 50 epochs of ImageNet-21k; both by the names of classes as texts.
  "imagenet_giant": Recipe(3e-5, 15, 3, 2048, 0.95, 0.4, 0.05, 336),
  "coco_retrieval_base": Recipe(2e-4, 15, 3, 3072, 0.65, 0.2, 0.05, 384),
  "coco_retrieval_large": Recipe(5e-5, 15, 3, 3072, 0.85, 0.2, 0.05, 384),
  "coco_retrieval_giant": Recipe(1e-5, 15, 3, 3072, 0.95, 0.3, 0.05, 420),
  "flickr30k_base": Recipe(1e-4, 20, 5, 3072, 0.65, 0.2, 0.05, 384),
  "flickr30k_large": Recipe(5e-5, 20, 5, 3072, 0.85, 0.2, 0.05, 384),
  "flickr30k_giant": Recipe(1e-5, 20, 5, 3072, 0.95, 0.3, 0.05, 420),
  "vqav2_base": _vqa(3e-5, 0.1),
  "vqav2_large": _vqa(2e-5, 0.15),
  "vqav2_giant": dataclasses.replace(_vqa(1e-5, 0.4), image_size=756, b2=0.999),
  "nlvr2_base": Recipe(
    *(7e-4, 20, 5, 256, 0.65, 0.2, 0.2, 224), indomain_lr=5e-4
  ),
  "nlvr2_large": Recipe(
    *(3e-4, 20, 5, 256, 0.85, 0.2, 0.2, 224), indomain_lr=1e-4
  ),
  "nlvr2_giant": Recipe(1e-3, 20, 5, 256, 0.8, 0.4, 0.05, 224),
  "coco_captioning_base": _captions(4e-5),
  "coco_captioning_large": _captions(8e-6),
  "nocaps_base": _captions(1e-5),
  "nocaps_large": _captions(8e-6),
}
