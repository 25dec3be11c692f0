"""DDPM's hyper-parameters (Ho et al. 2020, App. B), one instance per data set.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Literal

from experiments.checks import check_run


@dataclasses.dataclass(frozen=True)
class Config:
  """One DDPM; the defaults are its CIFAR-10 model.

  Attributes:
    name: of the experiment.
    dataset: TFDS name.
    split: TFDS split to train on.
    test_split: TFDS split for the likelihood of unseen images.
    image_size: height and width.
    image_channels: 1 for grey, 3 for colour.
    flip: random horizontal flips.
    crop: "center", or DDIM's square around the face of aligned CelebA.
    channels: width of the U-Net's first level.
    channel_mult: width of each level, in units of `channels`.
    num_res_blocks: residual blocks per level.
    attention_resolutions: heights of the feature maps with attention.
    patch_size: pixels per side folded into channels; 1 is the paper's.
    dropout: rate in the residual blocks.
    T: number of noising steps.
    beta_start: first beta of the linear schedule.
    beta_end: last beta.
    target: what the network predicts: eps or mean (DDPM Table 2), x_0, or
      velocity (Salimans & Ho 2022), which small networks learn sooner.
    loss: "simple" drops the variational bound's weights (Eq. 14).
    variance: of the reverse step (section 3.2; "learned": Table 2).
    lr: Adam's learning rate after the warm-up.
    warmup_steps: linear warm-up.
    decay_steps: the rate falls to 0 over so many steps; 0 for the paper's
      constant rate.
    clip_norm: the gradient's largest global norm.
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

  name: str = "cifar10"
  dataset: str = "cifar10"
  split: str = "train"
  test_split: str = "test"
  image_size: int = 32
  image_channels: int = 3
  flip: bool = True
  crop: Literal["center", "celeba"] = "center"
  channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 2, 2)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (16,)
  patch_size: int = 1
  dropout: float = 0.1
  T: int = 1000
  beta_start: float = 1e-4
  beta_end: float = 0.02
  target: Literal["eps", "x_0", "velocity", "mean"] = "eps"
  loss: Literal["simple", "bound"] = "simple"
  variance: Literal["small", "large", "learned"] = "large"
  lr: float = 2e-4
  warmup_steps: int = 5000
  decay_steps: int = 0
  clip_norm: float = 1.0
  ema_decay: float = 0.9999
  ema_warmup: bool = False
  batch_size: int = 128
  seed: int = 0
  steps: int = 800_000
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
    check_run(self, "T")
    if self.variance == "learned" and self.loss == "simple":
      raise ValueError(
        "variance='learned' needs loss='bound': the simple loss does not "
        "depend on the variance"
      )


_LARGE_IMAGES = Config(
  image_size=256,
  channel_mult=(1, 1, 2, 2, 4, 4),
  dropout=0.0,
  variance="small",
  lr=2e-5,
  batch_size=64,
)

# App. B. The paper flips all but Bedroom; its released scripts also set
# randflip to 0 for Cat.
CONFIGS = {
  "cifar10": Config(),
  # DDIM (Song et al. 2021) trained this one; its code has no warm-up.
  "celeba64": Config(
    name="celeba64",
    dataset="celeb_a",
    image_size=64,
    crop="celeba",
    channel_mult=(1, 2, 2, 2, 4),
    warmup_steps=0,
    steps=500_000,
  ),
  "celebahq256": dataclasses.replace(
    _LARGE_IMAGES,
    name="celebahq256",
    dataset="celeb_a_hq/256",
    split="train",
    test_split="train[:1000]",
    steps=500_000,
  ),
  "lsun_bedroom": dataclasses.replace(
    _LARGE_IMAGES,
    name="lsun_bedroom",
    dataset="lsun/bedroom",
    test_split="validation",
    flip=False,
    steps=2_400_000,
  ),
  # 192 channels are inferred from the published 256M parameters.
  "lsun_bedroom_large": dataclasses.replace(
    _LARGE_IMAGES,
    name="lsun_bedroom_large",
    dataset="lsun/bedroom",
    test_split="validation",
    flip=False,
    channels=192,
    steps=1_150_000,
  ),
  "lsun_church": dataclasses.replace(
    _LARGE_IMAGES,
    name="lsun_church",
    dataset="lsun/church_outdoor",
    test_split="validation",
    steps=1_200_000,
  ),
  "lsun_cat": dataclasses.replace(
    _LARGE_IMAGES,
    name="lsun_cat",
    dataset="lsun/cat",
    test_split="validation",
    steps=1_800_000,
  ),
  # Small enough for two CPU cores: 4 x 4 patches, one level, attention only in
  # the middle.
  "mnist5k": Config(
    name="mnist5k",
    dataset="mnist5k",
    split="train",
    image_size=28,
    image_channels=1,
    flip=False,
    channels=64,
    channel_mult=(1,),
    attention_resolutions=(),
    patch_size=4,
    dropout=0.0,
    target="velocity",
    lr=2e-3,
    warmup_steps=100,
    decay_steps=1100,
    ema_decay=0.99,
    ema_warmup=True,
    batch_size=64,
    steps=1100,
    save_every=500,
    log_every=10,
  ),
  # The CIFAR-10 network on 4,000 emoji; about an hour on one GPU.
  "openmoji32": Config(
    name="openmoji32",
    dataset="openmoji/32",
    flip=False,
    warmup_steps=1000,
    ema_decay=0.999,
    ema_warmup=True,
    steps=60_000,
  ),
  # Small enough for a CPU: 8 x 8 patches of them.
  "openmoji32_small": Config(
    name="openmoji32_small",
    dataset="openmoji/32",
    flip=False,
    channels=64,
    channel_mult=(1, 2),
    attention_resolutions=(8,),
    patch_size=4,
    dropout=0.0,
    target="velocity",
    lr=1e-3,
    warmup_steps=200,
    decay_steps=4000,
    ema_decay=0.995,
    ema_warmup=True,
    batch_size=64,
    steps=4000,
    save_every=500,
    log_every=20,
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
    patch_size=4,
    T=20,
    beta_end=0.3,
    warmup_steps=2,
    batch_size=8,
    steps=6,
    save_every=3,
    log_every=1,
  )
