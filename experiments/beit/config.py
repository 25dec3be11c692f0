"""BEiT's pre-training (Bao et al. 2022, Table 12, and the released commands).

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued. Fine-tuning and the linear probe have files of
their own: `finetune_config` and `probe_config`.
"""

import dataclasses
from typing import Any, Literal

from experiments.checks import check_counts

# The fields that say what the backbone is.
BACKBONE = (
  "patch_size",
  "width",
  "num_layers",
  "num_heads",
  "mlp_width",
  "absolute_positions",
  "relative_positions",
  "layer_scale",
)


@dataclasses.dataclass(frozen=True)
class Pretrain:
  """One pre-training; the defaults are the paper's BEiT-B on ImageNet-1k.

  Attributes:
    name: of the experiment.
    dataset: name for `jaxgen.data.load`; labels are not used.
    split: TFDS split to train on.
    image_size: height and width of the view that the network sees.
    image_channels: 1 for grey, 3 for colour.
    normalize: what the pixels become before the network: "half", in [-1, 1], or
      "imagenet", its mean and standard deviation.
    jitter: of brightness, contrast and saturation; 0.4 in the paper.
    flip: random horizontal flips.
    crop_area: the smallest share of an image that a random crop may have.
    tokenizer: where the frozen tokenizer is: a workdir of `experiments.dvae`,
      or a folder with DALL-E's encoder.pkl and decoder.pkl. Its view has as
      many of its tokens as the network's has patches.
    second_filter: renders that view.
    target: what is predicted of a patch: its visual "tokens", or its "pixels"
      as in the paper's ablation, which need no tokenizer.
    recover: of which patches: those "masked", or "all".
    mask: "blockwise" or "random" patches.
    num_masked: patches to mask; 0 for none, which needs recover "all".
    min_block: smallest block of a blockwise mask, in patches.
    exact_mask: single patches make up for what blocks leave, as in BEiT v2.
    patch_size: height and width of a patch.
    width: channels of a token.
    num_layers: blocks.
    num_heads: of the attention.
    mlp_width: channels between a block's dense layers.
    absolute_positions: a learnt vector for every position.
    relative_positions: "shared" biases of the attention, or "none".
    layer_scale: initial gamma of the blocks; None for no gamma.
    drop_path: rate of stochastic depth in the last block.
    early_layer: the block, from 1, whose patches BEiT v2's patch aggregation
      joins with the last class token; 0 for none. See `PatchAggregationModel`.
    extra_layers: blocks of the aggregation.
    shared_head: it shares the last normalisation and layer, as published.
    lr: highest rate of AdamW.
    min_lr: the last rate.
    warmup: steps in which the rate rises from 0.
    decay_steps: the steps of the whole schedule.
    weight_decay: AdamW's.
    b2: AdamW's second beta; the first is 0.9, epsilon 1e-8.
    clip_norm: of the whole gradient.
    batch_size: over all devices.
    seed: of initialisation, data order, views and masks.
    steps: run: number of updates.
    dtype: run: of the network's computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    accumulate: run: micro-batches that a batch is worked through in.
    workdir: run: where checkpoints and results go; runs/beit-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "base_plain_in1k"
  dataset: str = "imagenet2012"
  split: str = "train"
  image_size: int = 224
  image_channels: int = 3
  normalize: Literal["half", "imagenet"] = "imagenet"
  jitter: float = 0.4
  flip: bool = True
  crop_area: float = 0.08
  tokenizer: str = ""
  second_filter: Literal["bilinear", "bicubic", "lanczos"] = "lanczos"
  target: Literal["tokens", "pixels"] = "tokens"
  recover: Literal["masked", "all"] = "masked"
  mask: Literal["blockwise", "random"] = "blockwise"
  num_masked: int = 75
  min_block: int = 16
  exact_mask: bool = False
  patch_size: int = 16
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_width: int = 3072
  absolute_positions: bool = True
  relative_positions: Literal["none", "shared"] = "none"
  layer_scale: float | None = None
  drop_path: float = 0.1
  early_layer: int = 0
  extra_layers: int = 2
  shared_head: bool = True
  lr: float = 1.5e-3
  min_lr: float = 1e-5
  warmup: int = 6250
  decay_steps: int = 500_000
  weight_decay: float = 0.05
  b2: float = 0.999
  clip_norm: float = 3.0
  batch_size: int = 2048
  seed: int = 0
  steps: int = 500_000
  dtype: Literal["float32", "bfloat16"] = "float32"
  remat: bool = False
  fsdp: int = 1
  accumulate: int = 1
  workdir: str = ""
  data_dir: str = ""
  save_every: int = 5000
  log_every: int = 100
  num_workers: int = 0
  on_nan: Literal["stop", "skip"] = "stop"
  smoke: bool = False

  def __post_init__(self):
    """Refuses what cannot be trained.

    Raises:
      ValueError: a field is out of range, or two contradict each other.
    """
    check_schedule(self)
    check_accumulate(self)
    varies = self.mask == "blockwise" and not self.exact_mask
    if self.accumulate > 1 and self.recover == "masked" and varies:
      raise ValueError(
        "micro-batches need the same number of masked patches in all images: "
        "set exact_mask"
      )
    if self.image_size % self.patch_size:
      raise ValueError(
        f"image_size must be a multiple of patch_size = {self.patch_size}, got "
        f"{self.image_size}"
      )
    if not 0 <= self.num_masked <= self.grid**2:
      raise ValueError(
        f"num_masked must lie in [0, {self.grid**2}], got {self.num_masked}"
      )
    if self.early_layer and self.target == "pixels":
      raise ValueError("patch aggregation predicts tokens, got target 'pixels'")
    if self.num_masked == 0 and self.recover == "masked":
      raise ValueError("without masked patches recover must be 'all'")

  @property
  def grid(self) -> int:
    """Patches along a side of the image."""
    return self.image_size // self.patch_size


def check_schedule(config: Any, *counts: str) -> None:
  """What the configurations of all BEiTs' trainings ask of their schedule.

  Args:
    config: of a training.
    *counts: further fields that count something.

  Raises:
    ValueError: a field is out of range, or two contradict each other.
  """
  check_counts(config, "decay_steps", *counts)
  if config.decay_steps < config.steps:
    raise ValueError(
      f"the learning rate's schedule ends at decay_steps = "
      f"{config.decay_steps}, which must be at least steps = {config.steps}"
    )


def check_accumulate(config: Any) -> None:
  """Refuses micro-batches that a batch cannot be divided into.

  Raises:
    ValueError: it cannot.
  """
  if config.accumulate < 1 or config.batch_size % config.accumulate:
    raise ValueError(
      f"accumulate must be at least 1 and divide batch_size = "
      f"{config.batch_size}, got {config.accumulate}"
    )


def epoch_steps(dataset: str, batch_size: int) -> int:
  """Whole batches in an epoch of a data set's training images."""
  return TRAIN_IMAGES[dataset] // batch_size


# ImageNet-22k is not in TFDS: a folder of class folders. Its 21,841 classes
# have 14,197,122 images in the release of fall 2011.
IN22K = "folder:imagenet22k"
TRAIN_IMAGES = {
  "imagenet2012": 1_281_167,
  IN22K: 14_197_122,
  "cifar100": 50_000,
  "mnist5k": 4500,
}

LARGE: dict[str, Any] = {
  "width": 1024,
  "num_layers": 24,
  "num_heads": 16,
  "mlp_width": 4096,
}
# App. A: what the released networks have in the place of absolute positions.
PLUS: dict[str, Any] = {
  "absolute_positions": False,
  "relative_positions": "shared",
  "layer_scale": 0.1,
}
PLUS_LARGE: dict[str, Any] = PLUS | LARGE | {"layer_scale": 1e-5}


def _pretrain(
  name: str, epochs: int = 800, dataset: str = "imagenet2012", **changes: Any
) -> Pretrain:
  """So many epochs of batches of 2048; warm-up is 10 epochs of ImageNet-1k."""
  steps = epochs * epoch_steps(dataset, 2048)
  fields: dict[str, Any] = {"decay_steps": steps, "steps": steps}
  fields["dataset"] = dataset
  return Pretrain(name, **fields | changes)


_LARGE_RUN: dict[str, Any] = {"clip_norm": 1.0}
_IN22K: dict[str, Any] = {
  "epochs": 150,
  "dataset": IN22K,
  "warmup": 10_000,
  "normalize": "half",
}
PUBLISHED = {
  "base_plain_in1k": _pretrain("base_plain_in1k"),
  "large_plain_in1k": _pretrain("large_plain_in1k", **LARGE | _LARGE_RUN),
  "base_in1k": _pretrain("base_in1k", **PLUS),
  "large_in1k": _pretrain("large_in1k", **PLUS_LARGE | _LARGE_RUN),
  "base_in22k": _pretrain("base_in22k", **_IN22K | PLUS),
  "large_in22k": _pretrain("large_in22k", **_IN22K | PLUS_LARGE | _LARGE_RUN),
  # What Tables 4 and 5 vary.
  "base_plain_in1k_300ep": _pretrain("base_plain_in1k_300ep", 300),
}

_SMALL: dict[str, Any] = {
  "normalize": "half",
  "drop_path": 0.0,
  "lr": 1.5e-3,
  "batch_size": 64,
}
# Plain transformers: with biases alone, which start at 0, positions are learnt
# late, and gammas of 0.1 slow down a network that is trained for minutes.
#
# Minutes on two CPU cores: 7 x 7 tokens, 20 of them masked.
_MNIST = Pretrain(
  name="mnist5k",
  dataset="mnist5k",
  image_size=28,
  image_channels=1,
  jitter=0.0,
  flip=False,
  crop_area=0.8,
  num_masked=20,
  min_block=4,
  patch_size=4,
  width=64,
  num_layers=4,
  num_heads=4,
  mlp_width=256,
  warmup=100,
  decay_steps=2000,
  steps=2000,
  save_every=500,
  log_every=10,
  **_SMALL | {"batch_size": 32},
)
SMALL = {
  "mnist5k": _MNIST,
  # Minutes on two CPU cores: 8 x 8 tokens, 26 of them masked.
  "openmoji64_small": dataclasses.replace(
    _MNIST,
    name="openmoji64_small",
    dataset="openmoji/64",
    image_size=64,
    image_channels=3,
    flip=True,
    crop_area=0.4,
    num_masked=26,
    min_block=5,
    patch_size=8,
    width=96,
    mlp_width=384,
  ),
  # Minutes on one GPU.
  "openmoji64": Pretrain(
    name="openmoji64",
    dataset="openmoji/64",
    image_size=64,
    jitter=0.4,
    crop_area=0.2,
    num_masked=26,
    min_block=5,
    patch_size=8,
    width=256,
    num_layers=8,
    num_heads=8,
    mlp_width=1024,
    warmup=400,
    decay_steps=4000,
    steps=4000,
    save_every=2000,
    **_SMALL | {"drop_path": 0.1, "batch_size": 128},
  ),
}
CONFIGS = PUBLISHED | SMALL


def smoke(config: Pretrain) -> Pretrain:
  """The same experiment, shrunk to seconds."""
  early = min(config.early_layer, 1)
  return dataclasses.replace(config, early_layer=early, **smoke_fields())


def smoke_fields() -> dict[str, Any]:
  """What `--smoke` sets in all trainings that have a backbone."""
  return {
    "width": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_width": 64,
    "warmup": 2,
    "decay_steps": 6,
    "steps": 6,
    "batch_size": 8,
    "save_every": 3,
    "log_every": 1,
  }
