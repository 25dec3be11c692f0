"""Improved DDPM's hyper-parameters, one instance per model of the release.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Literal

from experiments.checks import check_run


@dataclasses.dataclass(frozen=True)
class Config:
  """One model; the defaults are the paper's for ImageNet-64.

  Attributes:
    name: of the experiment.
    dataset: TFDS name.
    split: TFDS split to train on.
    test_split: TFDS split for the likelihood of unseen images.
    image_size: height and width.
    image_channels: 1 for grey, 3 for colour.
    crop: "center" is OpenAI's.
    flip: random horizontal flips, which ADM has.
    num_classes: labels that the network is told; 0 for none.
    label_dropout: share of the examples whose label is hidden, for
      classifier-free guidance (Ho & Salimans 2022).
    low_res_size: height of the image that the network enlarges, for
      super-resolution; 0 for none. In training it is the mean over blocks.
    channels: width of the U-Net's first level.
    channel_mult: width of each level, in units of `channels`.
    num_res_blocks: residual blocks per level.
    attention_resolutions: heights of the feature maps with attention.
    num_heads: of the attention.
    num_head_channels: channels of a head, in place of num_heads (ADM).
    new_attention_order: of q, k, v, see `openai_unet` (ADM).
    resblock_updown: residual blocks change the size (ADM).
    scale_shift_norm: the time scales and shifts; if False it is added.
    patch_size: pixels per side folded into channels; 1 is the paper's.
    dropout: rate in the residual blocks.
    T: number of noising steps.
    schedule: of beta, "cosine" is Eq. 17.
    objective: "simple" with DDPM's fixed variance; "hybrid" (Eq. 16); or "vlb",
      the bound alone with importance sampling of t (section 3.3).
    hybrid_weight: lambda of the hybrid objective.
    rescale_timesteps: the network is told t 1000 / T.
    lr: AdamW's constant rate, without weight decay or warm-up.
    ema_decay: of the parameters' average, which samples are drawn from.
    ema_warmup: use min(ema_decay, (1 + n) / (10 + n)), for short runs.
    batch_size: over all devices.
    steps: run: number of updates.
    seed: of initialisation, data order and noise.
    dtype: run: of the network's computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    accumulate: run: micro-batches that a batch is worked through in.
    workdir: run: where checkpoints and results go; runs/NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "imagenet64"
  dataset: str = "imagenet2012"
  split: str = "train"
  test_split: str = "validation"
  image_size: int = 64
  image_channels: int = 3
  crop: Literal["center", "celeba"] = "center"
  flip: bool = False
  num_classes: int = 0
  label_dropout: float = 0.0
  low_res_size: int = 0
  channels: int = 128
  channel_mult: tuple[float, ...] = (1, 2, 3, 4)
  num_res_blocks: int = 3
  attention_resolutions: tuple[int, ...] = (16, 8)
  num_heads: int = 4
  num_head_channels: int | None = None
  new_attention_order: bool = False
  resblock_updown: bool = False
  scale_shift_norm: bool = True
  patch_size: int = 1
  dropout: float = 0.0
  T: int = 4000
  schedule: Literal["linear", "cosine"] = "cosine"
  objective: Literal["simple", "hybrid", "vlb"] = "hybrid"
  hybrid_weight: float = 0.001
  rescale_timesteps: bool = True
  lr: float = 1e-4
  ema_decay: float = 0.9999
  ema_warmup: bool = False
  batch_size: int = 128
  seed: int = 0
  steps: int = 1_500_000
  dtype: Literal["float32", "bfloat16"] = "float32"
  remat: bool = False
  fsdp: int = 1
  accumulate: int = 1
  workdir: str = ""
  data_dir: str = ""
  save_every: int = 10_000
  log_every: int = 100
  num_workers: int = 0
  on_nan: Literal["stop", "skip"] = "stop"
  smoke: bool = False

  def __post_init__(self):
    """Refuses what cannot be trained.

    Raises:
      ValueError: a field is out of range.
    """
    check_run(self, "T")
    if not 0 <= self.label_dropout < 1 or (
      self.label_dropout and not self.num_classes
    ):
      raise ValueError(
        "label_dropout must lie in [0, 1) and needs num_classes, got "
        f"{self.label_dropout} with num_classes {self.num_classes}"
      )
    if self.low_res_size and self.image_size % self.low_res_size:
      raise ValueError(
        f"low_res_size {self.low_res_size} does not divide image_size "
        f"{self.image_size}"
      )
    if self.image_size % self.patch_size:
      raise ValueError(
        f"patch_size {self.patch_size} does not divide image_size "
        f"{self.image_size}"
      )


_IMAGENET = Config()

# The README of the release; the paper's section 4 and App. A.
CONFIGS = {
  "imagenet64": _IMAGENET,
  "imagenet64_cond": dataclasses.replace(
    _IMAGENET,
    name="imagenet64_cond",
    num_classes=1000,
    channels=192,
    # The release trains this one with the plain sum of the two losses, whose
    # bound is a mean over t instead of a sum: a weight of 1 / T.
    hybrid_weight=1 / 4000,
    rescale_timesteps=False,
    lr=3e-4,
    batch_size=2048,
    steps=250_000,
  ),
  "cifar10": Config(
    name="cifar10",
    dataset="cifar10",
    test_split="test",
    image_size=32,
    channel_mult=(1, 2, 2, 2),
    dropout=0.3,
    steps=500_000,
  ),
  "lsun_bedroom": Config(
    name="lsun_bedroom",
    dataset="lsun/bedroom",
    image_size=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=2,
    attention_resolutions=(16,),
    num_heads=1,
    scale_shift_norm=False,
    T=1000,
    schedule="linear",
    hybrid_weight=1 / 1000,
    rescale_timesteps=False,
    steps=1_200_000,
  ),
  # 64 x 64 to 256 x 256, told the class: the second stage of the paper's
  # section 6.
  "upsampler": Config(
    name="upsampler",
    image_size=256,
    num_classes=1000,
    low_res_size=64,
    channels=192,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=2,
    schedule="linear",
    hybrid_weight=1 / 4000,
    rescale_timesteps=False,
    lr=3e-4,
    batch_size=256,
    steps=500_000,
  ),
  # Small enough for two CPU cores: 4 x 4 patches, one level, no attention but
  # in the middle, and a quarter of the paper's steps.
  "mnist5k": Config(
    name="mnist5k",
    dataset="mnist5k",
    test_split="test",
    image_size=28,
    image_channels=1,
    channels=64,
    channel_mult=(1,),
    num_res_blocks=2,
    attention_resolutions=(),
    patch_size=4,
    T=1000,
    lr=1e-3,
    ema_decay=0.99,
    ema_warmup=True,
    batch_size=64,
    steps=1500,
    save_every=500,
    log_every=10,
  ),
  # The CIFAR-10 network on emoji; about an hour on one GPU.
  "openmoji32": Config(
    name="openmoji32",
    dataset="openmoji/32",
    test_split="test",
    image_size=32,
    channel_mult=(1, 2, 2, 2),
    dropout=0.3,
    ema_decay=0.999,
    ema_warmup=True,
    steps=60_000,
  ),
}


def smoke(config: Config) -> Config:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    channels=32,
    channel_mult=(1,),
    attention_resolutions=(config.image_size // 4,),
    num_res_blocks=1,
    num_head_channels=None,
    patch_size=4,
    T=50,  # linear betas grow as 1 / T and must stay below 1
    batch_size=8,
    steps=6,
    save_every=3,
    log_every=1,
  )
