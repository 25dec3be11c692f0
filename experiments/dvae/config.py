"""Discrete autoencoders, whose codes are BEiT's visual tokens.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", App. A, trained on
250 million images from the web that are not public; Bao et al. 2022, "BEiT",
App. C, trained on ImageNet-1k.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Any, Literal

from experiments.checks import check_counts


@dataclasses.dataclass(frozen=True)
class Config:
  """One discrete autoencoder; the defaults are DALL-E's.

  beta, tau and the learning rate go from their first to their last value along
  half a cosine, and then stay.

  Attributes:
    name: of the experiment.
    dataset: TFDS name.
    split: TFDS split to train on.
    test_split: TFDS split that reconstructions are shown of.
    image_size: height and width.
    image_channels: 1 for grey, 3 for colour.
    flip: random horizontal flips.
    crop: "random", DALL-E's random square that is shrunk and cut; or "center".
    network: "dalle", or "beit" for BEiT's own.
    num_tokens: K, of the vocabulary.
    halvings: of the image; a token stands for f x f pixels, f = 2^halvings.
    channels: width of the network: its first level's, which the others
      multiply, in "dalle"; of all levels in "beit".
    num_blocks: residual blocks of each level of "dalle".
    code_width: channels of a token's vector.
    smooth_l1: "beit" minimises smooth L1 errors, not squares.
    dequantize: pixels are given uniform noise of their 256 levels' width
      (Theis et al. 2016), for "dalle" has a density, which flat areas of
      drawings would make infinite.
    beta: last weight of the KL divergence, whose first is 0; see `dvae_loss`
      and `discrete_vae_loss`.
    beta_steps: updates until it is reached.
    tau_start: first temperature of the relaxed samples.
    tau: last temperature.
    tau_steps: updates until it is reached.
    lr: AdamW's first learning rate.
    lr_end: its last.
    lr_steps: updates until it is reached.
    weight_decay: at a learning rate of 1.
    ema_decay: of the parameters' average.
    window: updates over which the use of the codes is measured.
    batch_size: over all devices.
    seed: of initialisation, data order and noise.
    steps: run: number of updates.
    dtype: run: of the networks' computation.
    fsdp: run: devices that share one copy of the parameters.
    workdir: run: where checkpoints and results go; runs/dvae-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "dalle"
  dataset: str = "imagenet2012"
  split: str = "train"
  test_split: str = "validation"
  image_size: int = 256
  image_channels: int = 3
  flip: bool = True
  crop: Literal["random", "center"] = "random"
  network: Literal["dalle", "beit"] = "dalle"
  num_tokens: int = 8192
  halvings: int = 3
  channels: int = 256
  num_blocks: int = 2
  code_width: int = 128
  smooth_l1: bool = False
  dequantize: bool = False
  beta: float = 6.6
  beta_steps: int = 5000
  tau_start: float = 1.0
  tau: float = 1 / 16
  tau_steps: int = 150_000
  lr: float = 1e-4
  lr_end: float = 1.25e-6
  lr_steps: int = 1_200_000
  weight_decay: float = 1e-4
  ema_decay: float = 0.999
  window: int = 100
  batch_size: int = 512
  seed: int = 0
  steps: int = 3_000_000
  dtype: Literal["float32", "bfloat16"] = "float32"
  fsdp: int = 1
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
    check_counts(self, *_COUNTS)
    for name in ("tau", "tau_start"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    if self.num_tokens < 2:
      raise ValueError(f"num_tokens must be at least 2, got {self.num_tokens}")
    if self.image_size % self.f:
      raise ValueError(
        f"image_size must be a multiple of f = {self.f}, got {self.image_size}"
      )
    if self.dequantize and self.network != "dalle":
      raise ValueError(
        "dequantize is for the density of network dalle, got network "
        f"{self.network}"
      )

  @property
  def f(self) -> int:
    """Height and width in pixels of what a token stands for."""
    return 2**self.halvings


_COUNTS = (
  "halvings",
  "channels",
  "num_blocks",
  "code_width",
  "beta_steps",
  "tau_steps",
  "lr_steps",
  "window",
)

DALLE = Config()
# BEiT's code has the network (its sizes in utils.get_d_vae) and its defaults
# tau = 0.9 and no KL; the paper, that it was trained on ImageNet-1k. The rest
# is completed from DALL-E's recipe.
BEIT = Config(
  name="beit_dvae",
  network="beit",
  code_width=512,
  beta=0.0,
  tau_start=0.9,
  tau=0.9,
  steps=1_200_000,
)

# Three minutes on two CPU cores: 7 x 7 tokens. Squared errors, for a density of
# DALL-E's kind spends itself on the background of drawings.
_MNIST = Config(
  name="mnist5k",
  dataset="mnist5k",
  test_split="test",
  image_size=28,
  image_channels=1,
  flip=False,
  crop="center",
  network="beit",
  num_tokens=64,
  halvings=2,
  channels=32,
  code_width=64,
  beta=3e-4,
  beta_steps=300,
  tau_steps=800,
  lr=2e-3,
  lr_end=2e-5,
  lr_steps=1000,
  ema_decay=0.99,
  batch_size=64,
  steps=1000,
  save_every=500,
  log_every=10,
)
# About ten minutes on one GPU: 8 x 8 tokens of 4,000 emoji.
_OPENMOJI = dataclasses.replace(
  _MNIST,
  name="openmoji64",
  dataset="openmoji/128",
  image_size=64,
  image_channels=3,
  flip=True,
  crop="random",
  num_tokens=512,
  halvings=3,
  channels=128,
  code_width=256,
  beta_steps=1000,
  tau_steps=3500,
  lr=1e-3,
  lr_end=1.25e-5,
  lr_steps=5000,
  ema_decay=0.999,
  steps=5000,
  save_every=1000,
  log_every=50,
)
# DALL-E's network and density, with its weight of the KL.
_DALLE_SMALL: dict[str, Any] = {
  "network": "dalle",
  "num_blocks": 1,
  "dequantize": True,
  "beta": 6.6,
  "beta_steps": 500,
}
SMALL = {
  "mnist5k": _MNIST,
  # Minutes on a CPU core, for as many tokens.
  "openmoji64_small": dataclasses.replace(
    _MNIST,
    name="openmoji64_small",
    dataset="openmoji/64",
    image_size=64,
    image_channels=3,
    flip=True,
    num_tokens=128,
    halvings=3,
    channels=16,
    num_blocks=1,
    beta_steps=300,
    tau_steps=1200,
    lr_steps=1500,
    steps=1500,
  ),
  "openmoji64": _OPENMOJI,
  "mnist5k_dalle": dataclasses.replace(
    _MNIST, name="mnist5k_dalle", **_DALLE_SMALL
  ),
}

CONFIGS = {"dalle": DALLE, "beit_dvae": BEIT} | SMALL


def smoke(config: Config) -> Config:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    num_tokens=min(config.num_tokens, 16),
    channels=8,
    num_blocks=1,
    code_width=8,
    beta_steps=2,
    tau_steps=4,
    lr_steps=6,
    window=4,
    batch_size=8,
    steps=6,
    save_every=3,
    log_every=1,
  )
