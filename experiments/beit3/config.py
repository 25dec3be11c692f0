"""BEiT-3's pre-training (Wang et al. 2023), and what its configurations share.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued. How the networks are fine-tuned for all tasks is
in `recipes`.
"""

import dataclasses
from typing import Any, Literal

from experiments.beit.config import check_schedule

# Fields that say what the trunk is, by the names that `Beit3` has.
TRUNK = (
  *("patch_size", "width", "num_layers", "num_heads", "mlp_width"),
  *("vocab_size", "shared_attention", "pair_layers", "sub_norm", "paper_init"),
)


@dataclasses.dataclass(frozen=True)
class Pretrain:
  """Masked data modelling; the defaults are those of the paper's giant network.

  A step sees three batches: images, texts, and pairs of both. The paper's are
  of ImageNet-21k, 160 GB of text, and 21 million pairs of CC12M, CC3M, SBU,
  COCO and Visual Genome; here they are of one data set with captions, drawn
  apart, or of two.

  Attributes:
    name: of the experiment.
    dataset: TFDS name of the pairs, with captions, and of the texts.
    split: TFDS split of them.
    image_dataset: TFDS name of the images alone; `dataset` if empty.
    image_split: TFDS split of them.
    image_size: height and width of the view that the network sees.
    jitter: of brightness, contrast and saturation.
    flip: random horizontal flips.
    crop_area: the smallest share of an image that a random crop may have. The
      paper says "random resized cropping" alone.
    tokenizer: where the frozen image tokenizer is, for
      `experiments.tokenizers`; the paper's is BEiT v2's.
    spm: the published beit3.spm; if empty a tokenizer of the captions is
      learnt.
    max_length: tokens of a text, start and end included.
    num_masked: patches to mask of an image, alone or in a pair: 40%.
    min_block: smallest block of the mask, in patches.
    text_share: of the tokens of a text alone to mask.
    pair_share: of the tokens of a text with an image to mask.
    room: words per text, by mean over a device's share of a batch, that dense
      layers have room for: they then skip the padding after texts. Where there
      are more words, the longest texts are cut; the metrics "text_cut" and
      "pair_cut" say by how many words, by mean. 0: dense layers see padding.
    patch_size: height and width of a patch.
    width: channels of a token.
    num_layers: blocks.
    num_heads: of the attention.
    mlp_width: channels between an expert's dense layers.
    vocab_size: tokens of the text tokenizer, at least.
    shared_attention: the paper's network; else the released one.
    pair_layers: top blocks with an expert for pairs.
    sub_norm: normalisations before the branches' last layers.
    paper_init: the paper's initial weights; see `jaxgen.nn.beit3.Beit3`.
    drop_path: rate of stochastic depth in the last block.
    lr: highest rate of AdamW.
    min_lr: the last rate; the paper says only "cosine".
    warmup: steps in which the rate rises from 0.
    decay_steps: the steps of the whole schedule.
    weight_decay: AdamW's.
    b2: AdamW's second beta; the first is 0.9.
    eps: AdamW's epsilon.
    clip_norm: of the whole gradient.
    batch_size: of each of the three batches, over all devices.
    seed: of initialisation, data order, views and masks.
    steps: run: number of updates.
    dtype: run: of the network's computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    accumulate: run: micro-batches that a batch is worked through in.
    workdir: run: where checkpoints go; runs/beit3-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "giant"
  dataset: str = "coco_captions"
  split: str = "train+restval"
  image_dataset: str = "imagenet2012"
  image_split: str = "train"
  image_size: int = 224
  jitter: float = 0.4
  flip: bool = True
  crop_area: float = 0.2
  tokenizer: str = ""
  spm: str = ""
  max_length: int = 64
  num_masked: int = 102
  min_block: int = 16
  text_share: float = 0.15
  pair_share: float = 0.5
  room: float = 0.0
  patch_size: int = 14
  width: int = 1408
  num_layers: int = 40
  num_heads: int = 16
  mlp_width: int = 6144
  vocab_size: int = 64010
  shared_attention: bool = True
  pair_layers: int = 3
  sub_norm: bool = False
  paper_init: bool = True
  drop_path: float = 0.1
  lr: float = 1e-3
  min_lr: float = 0.0
  warmup: int = 10_000
  decay_steps: int = 1_000_000
  weight_decay: float = 0.05
  b2: float = 0.98
  eps: float = 1e-6
  clip_norm: float = 3.0
  batch_size: int = 2048
  seed: int = 0
  steps: int = 1_000_000
  dtype: str = "float32"
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
    check_trunk(self, "accumulate")
    if not 0 < self.num_masked < self.grid**2:
      raise ValueError(
        f"num_masked must lie in (0, {self.grid**2}), got {self.num_masked}"
      )
    for name in ("text_share", "pair_share"):
      if not 0 < getattr(self, name) < 1:
        raise ValueError(
          f"{name} must lie in (0, 1), got {getattr(self, name)}"
        )
    if self.room and not 2 <= self.room <= self.max_length:
      raise ValueError(
        f"room must be 0 or lie in [2, max_length = {self.max_length}], got "
        f"{self.room}"
      )

  @property
  def grid(self) -> int:
    """Patches along a side of the image."""
    return self.image_size // self.patch_size


def check_trunk(config: Any, *counts: str) -> None:
  """What all trainings ask of their schedule and network.

  Args:
    config: of a training.
    *counts: further fields that count something.

  Raises:
    ValueError: a field is out of range, or two contradict each other.
  """
  check_schedule(config, *counts)
  if config.image_size % config.patch_size:
    raise ValueError(
      "image_size must be a multiple of patch_size = "
      f"{config.patch_size}, got {config.image_size}"
    )
  if config.dtype not in ("float32", "bfloat16"):
    raise ValueError(f"dtype is float32 or bfloat16, got {config.dtype!r}")


LARGE: dict[str, Any] = {
  "width": 1024,
  "num_layers": 24,
  "num_heads": 16,
  "mlp_width": 4096,
}
GIANT: dict[str, Any] = {name: getattr(Pretrain(), name) for name in TRUNK}
# Released are base and large; the giant network is the paper's.
SIZES: dict[str, dict[str, Any]] = {"base": {}, "large": LARGE, "giant": GIANT}
_RELEASED: dict[str, Any] = {
  "shared_attention": False,
  "pair_layers": 0,
  "sub_norm": True,
  "patch_size": 16,
  "num_masked": 78,
}
SMALL: dict[str, Any] = {
  "dataset": "openmoji/32",
  "split": "train",
  "image_size": 32,
  "max_length": 16,
  "patch_size": 8,
  "width": 96,
  "num_layers": 4,
  "num_heads": 4,
  "mlp_width": 384,
  "vocab_size": 1024,
  "paper_init": True,
  "drop_path": 0.0,
  "batch_size": 64,
  "log_every": 10,
}
SHORT: dict[str, Any] = {"warmup": 100, "decay_steps": 1500, "steps": 1500}

# The paper's, and its recipe for the networks that were released, whose own is
# not published.
PRETRAININGS = {
  "giant": Pretrain(),
  "base": Pretrain(
    "base",
    **_RELEASED,
    width=768,
    num_layers=12,
    num_heads=12,
    mlp_width=3072,
  ),
  "large": Pretrain("large", **_RELEASED | LARGE),
  # Small enough for a CPU: 4 x 4 patches, 6 of them masked.
  "openmoji32": Pretrain(
    "openmoji32",
    image_dataset="",
    **SMALL | SHORT,
    num_masked=6,
    min_block=2,
    shared_attention=True,
    pair_layers=1,
    sub_norm=True,
    jitter=0.0,
    save_every=500,
  ),
}


def smoke(config: Any) -> Any:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    width=32,
    num_layers=2,
    num_heads=2,
    mlp_width=64,
    warmup=2,
    decay_steps=6,
    steps=6,
    batch_size=16,
    save_every=3,
    log_every=1,
  )
