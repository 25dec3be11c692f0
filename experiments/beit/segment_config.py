"""BEiT for semantic segmentation (Bao et al. 2022, section 3.2 and App. C).

Rows of `PUBLISHED` are the configurations of the two releases for ADE20K, BEiT
and BEiT v2 ("v2"), with UPerNet: of the base and the large network, at crops of
512 and 640, begun from a network that was only pre-trained ("mim") or also
fine-tuned on ImageNet-22k.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Any, Literal

from experiments.checks import check_run
from jaxgen.data.scenes import NUM_CLASSES
from jaxgen.nn.vit import RelativePositions

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class Segmentation:
  """One segmentation network, whatever its backbone.

  Attributes:
    name: of the experiment.
    dataset: name for `jaxgen.data.load`, of images with a `segmentation`.
    split: split to train on.
    test_split: split to judge by.
    scenes: if not 0, so many `DigitScenes` of the data set's digits take the
      data set's place.
    test_scenes: the same for the test split.
    image_channels: 1 for grey, 3 for colour; grey images become 3 channels.
    num_classes: labels.
    reduce_zero_label: label 0 is no class, and 1 becomes 0.
    crop_size: height and width of crops, and of windows in the test.
    stride: between windows.
    long, short: images are brought to the largest size within these; in
      training times a random ratio.
    ratios: between which it is drawn.
    max_share: most that one class may have of a crop, see `crop_box`.
    flip: random horizontal flips.
    distort: random brightness, contrast, saturation and hue.
    mean, std: of each channel, in levels.
    patch_size: height and width of a patch.
    width: channels of the backbone.
    num_layers: its blocks.
    num_heads: heads of its attention.
    mlp_width: channels between a block's dense layers.
    head: "upernet", the releases'; or "setr_pup", the paper's.
    levels: blocks, from 0, whose outputs are the feature maps.
    drop_path: rate of stochastic depth in the last block.
    init: backbone to begin with, a workdir or a published file; random if
      empty.
    auxiliary_weight: of the auxiliary head's loss, or of each one's.
    lr: AdamW's learning rate of heads and pyramid.
    layer_decay: by which it falls from a block to the one before.
    weight_decay: of AdamW.
    warmup_steps: of mmcv's linear warm-up.
    decay_steps: the rate falls to 0 along a line over so many steps.
    batch_size: over all devices.
    seed: of initialisation, data order and noise.
    steps: run: number of updates.
    dtype: run: of the networks' computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    workdir: run: where checkpoints and results go; runs/NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "base_512"
  dataset: str = "ade20k:ADEChallengeData2016"
  split: str = "train"
  test_split: str = "validation"
  scenes: int = 0
  test_scenes: int = 0
  image_channels: int = 3
  num_classes: int = 150
  reduce_zero_label: bool = True
  crop_size: int = 512
  stride: int = 341
  long: int = 2048
  short: int = 512
  ratios: tuple[float, float] = (0.5, 2.0)
  max_share: float = 0.75
  flip: bool = True
  distort: bool = True
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  patch_size: int = 16
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_width: int = 3072
  head: Literal["upernet", "setr_pup"] = "upernet"
  levels: tuple[int, int, int, int] = (3, 5, 7, 11)
  drop_path: float = 0.1
  init: str = ""
  auxiliary_weight: float = 0.4
  lr: float = 3e-5
  layer_decay: float = 0.9
  weight_decay: float = 0.05
  warmup_steps: int = 1500
  decay_steps: int = 160_000
  batch_size: int = 16
  seed: int = 0
  steps: int = 160_000
  dtype: Literal["float32", "bfloat16"] = "float32"
  remat: bool = False
  fsdp: int = 1
  workdir: str = ""
  data_dir: str = ""
  save_every: int = 5000
  log_every: int = 50
  num_workers: int = 0
  on_nan: Literal["stop", "skip"] = "stop"
  smoke: bool = False

  def __post_init__(self):
    """Refuses what cannot be trained.

    Raises:
      ValueError: a field is out of range, or two contradict each other.
    """
    check_run(self, "stride", "decay_steps")
    # The pyramid's smallest map is half the grid of patches.
    if self.crop_size % (2 * self.patch_size):
      raise ValueError(
        f"crop_size must be a multiple of two patches of {self.patch_size}, "
        f"got {self.crop_size}"
      )
    if self.stride > self.crop_size:
      raise ValueError(
        f"windows of {self.crop_size} leave gaps at stride = {self.stride}"
      )
    if not 0 <= min(self.levels) <= max(self.levels) < self.num_layers:
      raise ValueError(
        f"levels must lie in [0, {self.num_layers}), got {self.levels}"
      )
    channels = (len(self.mean), len(self.std))
    if channels != (self.image_channels,) * 2:
      raise ValueError(
        f"mean and std need {self.image_channels} numbers, got {channels}"
      )


@dataclasses.dataclass(frozen=True)
class Config(Segmentation):
  """BEiT's; the defaults are BEiT-B's after ImageNet-22k.

  `init` is a workdir of pre-training or fine-tuning or a published file, see
  `experiments.beit.model.load`. The release's fp16 is bfloat16 or float32 here.
  It trains the large network at 640 in two halves of a batch, whose
  normalisations see 8 images each; here the batch is whole.

  Attributes:
    absolute_positions: learnt vectors are added at the start.
    relative_positions: biases of the attention.
    layer_scale: initial gamma; None for no gamma.
  """

  absolute_positions: bool = False
  relative_positions: RelativePositions = "per_block"
  layer_scale: float | None = 0.1


def _released(name: str, lr: float, layer_decay: float, **changes: Any):
  return Config(name, lr=lr, layer_decay=layer_decay, **changes)


_LARGE: dict[str, Any] = {
  "width": 1024,
  "num_layers": 24,
  "num_heads": 16,
  "mlp_width": 4096,
  "layer_scale": 1e-6,
  "levels": (7, 11, 15, 23),
  "drop_path": 0.2,
}
_640: dict[str, Any] = {
  "crop_size": 640,
  "stride": 426,
  "long": 2560,
  "short": 640,
}
_V2: dict[str, Any] = {"drop_path": 0.15}
PUBLISHED = {
  config.name: config
  for config in (
    _released("base_512_mim", 7e-4, 0.65),
    _released("base_512", 3e-5, 0.9),
    _released("base_640", 3e-5, 0.9, **_640),
    _released("large_512", 2e-5, 0.95, **_LARGE),
    _released("large_640", 2e-5, 0.95, **_LARGE, **_640),
    _released("v2_base_512_mim", 5e-5, 0.75, **_V2),
    _released("v2_base_512", 5e-5, 0.85, **_V2),
    _released("v2_large_512_mim", 4e-5, 0.9, **_LARGE),
    _released("v2_large_512", 3e-5, 0.9, **_LARGE),
  )
}

# The network of the paper's main tables, with its head, SETR-PUP. Learning rate
# and decay are the paper's (Table 14), which also resizes positions bilinearly;
# here it is done bicubically. The paper does not say which blocks have
# auxiliary heads: these are mmsegmentation's for a network of 12.
PLAIN = dataclasses.replace(
  PUBLISHED["base_512_mim"],
  name="plain_base_512",
  absolute_positions=True,
  relative_positions="none",
  layer_scale=None,
  head="setr_pup",
  levels=(4, 7, 9, 11),
  lr=1e-3,
)

# Scenes of digits, each pixel the digit's or the background's: about ten
# minutes on two CPU cores. The backbone is that of `experiments.beit.pretrain
# mnist5k`.
MNIST = Config(
  name="mnist5k_seg",
  dataset="mnist5k",
  test_split="test",
  scenes=4000,
  test_scenes=200,
  image_channels=1,
  num_classes=NUM_CLASSES,
  reduce_zero_label=False,
  crop_size=40,
  stride=28,
  long=256,
  short=64,
  ratios=(0.75, 1.5),
  max_share=0.95,
  flip=False,
  mean=(127.5,),
  std=(127.5,),
  patch_size=4,
  width=64,
  num_layers=4,
  num_heads=4,
  mlp_width=256,
  absolute_positions=True,
  relative_positions="none",
  layer_scale=None,
  levels=(0, 1, 2, 3),
  drop_path=0.0,
  lr=2e-3,
  layer_decay=0.75,
  warmup_steps=40,
  decay_steps=800,
  steps=800,
  save_every=200,
  log_every=10,
)
SMALL = {MNIST.name: MNIST}

CONFIGS = PUBLISHED | {PLAIN.name: PLAIN} | SMALL


def smoke(config: Segmentation) -> Segmentation:
  """The same experiment, shrunk to seconds."""
  size = 4 * config.patch_size
  return dataclasses.replace(
    config,
    scenes=min(config.scenes, 16),
    test_scenes=min(config.test_scenes, 4),
    crop_size=size,
    stride=size // 2,
    long=4 * size,
    short=size,
    width=16,
    num_layers=1,
    num_heads=2,
    mlp_width=32,
    levels=(0, 0, 0, 0),
    warmup_steps=2,
    decay_steps=4,
    batch_size=8,
    steps=4,
    save_every=2,
    log_every=1,
  )
