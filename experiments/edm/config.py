"""EDM's hyper-parameters (Karras et al. 2022, Table 7), CIFAR-10.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Literal

from experiments.checks import check_run


@dataclasses.dataclass(frozen=True)
class Config:
  """One model; the defaults are the paper's config E, unconditional.

  Attributes:
    name: of the experiment.
    dataset: TFDS name.
    split: TFDS split to train on.
    test_split: TFDS split of unseen images.
    image_size: height and width.
    image_channels: 1 for grey, 3 for colour.
    flip: random horizontal flips, of which the network is not told.
    augment: probability of each change of App. F.2, of which it is; config F
      has 0.12, on FFHQ and AFHQv2 0.15.
    num_classes: of the labels that the network is told; 0 for none.
    crop: of larger images.
    formulation: "vp" has DDPM++'s network, "ve" NCSN++'s; and where the two
      fields below say "original", what score SDE did with them.
    preconditioning: "edm" is Eq. 7, "original" Table 1's VP or VE column.
    loss: "edm" draws ln sigma from a normal distribution and weights by
      1 / c_out^2; "original" draws sigma as score SDE does and weights by
      1 / sigma^2.
    channels: width of the U-Net's first level.
    channel_mult: width of each level, in units of `channels`.
    num_res_blocks: residual blocks per level.
    attention_resolutions: heights of the feature maps with attention.
    patch_size: pixels per side folded into channels; 1 is the paper's.
    dropout: rate in the residual blocks.
    sigma_data: standard deviation of the data.
    lr: Adam's rate after the warm-up.
    warmup_images: images of the linear warm-up.
    ema_images: half-life of the parameters' average, in images; until
      `ema_rampup` of the images seen reaches it, that is the half-life.
    ema_rampup: see above.
    batch_size: over all devices.
    seed: of initialisation, data order and noise.
    steps: run: number of updates.
    dtype: run: of the network's computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    accumulate: run: micro-batches that a batch is worked through in.
    workdir: run: where checkpoints and results go.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "cifar10"
  dataset: str = "cifar10"
  split: str = "train"
  test_split: str = "test"
  image_size: int = 32
  image_channels: int = 3
  flip: bool = True
  augment: float = 0.0
  num_classes: int = 0
  crop: Literal["center", "celeba"] = "center"
  formulation: Literal["vp", "ve"] = "vp"
  preconditioning: Literal["edm", "original"] = "edm"
  loss: Literal["edm", "original"] = "edm"
  channels: int = 128
  channel_mult: tuple[int, ...] = (2, 2, 2)
  num_res_blocks: int = 4
  attention_resolutions: tuple[int, ...] = (16,)
  patch_size: int = 1
  dropout: float = 0.13
  sigma_data: float = 0.5
  lr: float = 1e-3
  warmup_images: int = 10_000_000
  ema_images: int = 500_000
  ema_rampup: float = 0.05
  batch_size: int = 512
  seed: int = 0
  steps: int = 390_625
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
      ValueError: a field is out of range, or two contradict each other.
    """
    check_run(self)
    if (self.loss, self.preconditioning) == ("edm", "original"):
      raise ValueError(
        "loss='edm' needs preconditioning='edm': its weight is 1 / c_out^2"
      )
    if not 0 <= self.augment <= 1:
      raise ValueError(f"augment must lie in [0, 1], got {self.augment}")
    if self.image_size % self.patch_size:
      raise ValueError(
        f"patch_size {self.patch_size} does not divide image_size "
        f"{self.image_size}"
      )


CONFIGS = {
  "cifar10": Config(),
  "cifar10_cond": Config(name="cifar10_cond", num_classes=10),
  # Small enough for two CPU cores: 4 x 4 patches, one level.
  "mnist5k": Config(
    name="mnist5k",
    dataset="mnist5k",
    image_size=28,
    image_channels=1,
    flip=False,
    channels=64,
    channel_mult=(1,),
    num_res_blocks=2,
    attention_resolutions=(),
    patch_size=4,
    dropout=0.0,
    lr=2e-3,
    warmup_images=6400,
    ema_images=6400,
    batch_size=64,
    steps=1500,
    save_every=500,
    log_every=10,
  ),
  # CIFAR-10's on emoji; about an hour on one GPU.
  "openmoji32": Config(
    name="openmoji32",
    dataset="openmoji/32",
    flip=False,
    warmup_images=256_000,
    batch_size=256,
    steps=30_000,
  ),
}


def smoke(config: Config) -> Config:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_resolutions=(),
    patch_size=4,
    warmup_images=8,
    batch_size=8,
    steps=6,
    save_every=3,
    log_every=1,
  )
