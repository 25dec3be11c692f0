"""The first stages of latent diffusion (Rombach et al. 2022, App. G, Table 8).

Names with a hyphen are rows of Table 8, named as in the release: kl-f8, ... The
nine that were released have the values of their files; the paper's text holds
no more, and the other rows, marked below, had to be completed by analogy.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Any, Literal

from experiments.checks import check_run


@dataclasses.dataclass(frozen=True)
class Config:
  """One autoencoder with its discriminator; the defaults are the kl-f8's.

  The logarithm of the reconstruction loss's scale, "logvar", is 0 and no field:
  the original has it as a parameter, but never gives it to an optimizer.

  Attributes:
    name: of the experiment.
    dataset: TFDS name.
    split: TFDS split to train on.
    test_dataset: TFDS name of the images to judge by; `dataset` if empty.
    test_split: TFDS split of those.
    image_size: height and width.
    image_channels: 1 for grey, 3 for colour.
    flip: random horizontal flips.
    crop: "center", or DDIM's square around the face of aligned CelebA.
    num_codes: |Z|, of the codebook; 0 for the KL-regularised autoencoder.
    z_channels: c, channels of the latent.
    channels: width of the first level.
    channel_mult: width of each level, in units of `channels`; f is 2 to the
      number of levels less one.
    num_res_blocks: residual blocks per level.
    attention_resolutions: heights of the feature maps with attention.
    mid_attention: attention at the latent's size.
    kl_weight: of the KL divergence, without codebook.
    codebook_weight: of the quantizer's loss.
    beta: of one of its terms.
    legacy: beta weighs the codebook's term, as VQGAN's code has it.
    perceptual_weight: of the perceptual distance: LPIPS if `lpips` is given,
      else the distance of Laplacian pyramids, which needs no weights, but
      compares pixels and not features.
    lpips: published weights of LPIPS: a directory with vgg16-397923af.pth and
      vgg.pth, or one file with both, such as a released first stage.
    disc_channels: width of the discriminator's first layer.
    disc_layers: its strided convolutions.
    disc_loss: "hinge" or "vanilla".
    disc_weight: of the adversarial loss, times the adaptive weight.
    disc_start: the step, from 0, before which that weight is 0.
    lr: Adam's learning rate, of both optimizers: the original's 4.5e-6 times
      the batch size.
    decay_steps: the rate falls to 0 over so many steps; 0 for the paper's
      constant rate.
    ema_decay: of the autoencoder's average; 0 for none, as in the paper.
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

  name: str = "kl-f8"
  dataset: str = "open_images_v4/200k"
  split: str = "train"
  test_dataset: str = "imagenet2012"
  test_split: str = "validation"
  image_size: int = 256
  image_channels: int = 3
  flip: bool = False
  crop: Literal["center", "celeba"] = "center"
  num_codes: int = 0
  z_channels: int = 4
  channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = ()
  mid_attention: bool = True
  kl_weight: float = 1e-6
  codebook_weight: float = 1.0
  beta: float = 0.25
  legacy: bool = True
  perceptual_weight: float = 1.0
  lpips: str = ""
  disc_channels: int = 64
  disc_layers: int = 3
  disc_loss: Literal["hinge", "vanilla"] = "hinge"
  disc_weight: float = 0.5
  disc_start: int = 50_001
  lr: float = 1.8e-5
  decay_steps: int = 0
  ema_decay: float = 0.0
  batch_size: int = 4
  seed: int = 0
  steps: int = 246_803
  dtype: Literal["float32", "bfloat16"] = "float32"
  remat: bool = False
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
    check_run(self)
    if self.image_size % self.f:
      raise ValueError(
        f"image_size must be a multiple of f = {self.f}, got {self.image_size}"
      )
    if self.lpips and self.image_channels != 3:
      raise ValueError(
        "LPIPS compares images of 3 channels, got image_channels = "
        f"{self.image_channels}"
      )

  @property
  def f(self) -> int:
    """How much higher and wider an image is than its latent."""
    return 2 ** (len(self.channel_mult) - 1)


# The release does not say on how many GPUs; batches, and so learning rates, are
# those of one. OpenImages was cut to 256 pixels from images of 384; here the
# largest central square is shrunk.
BASE_LR = 4.5e-6


def _paper(name: str, batch_size: int, steps: int, **changes: Any) -> Config:
  """A row of Table 8; its learning rate follows from the batch."""
  lr = BASE_LR * batch_size
  return Config(name, batch_size=batch_size, steps=steps, lr=lr, **changes)


_KL_F16: dict[str, Any] = {
  "channel_mult": (1, 1, 2, 2, 4),
  "attention_resolutions": (16,),
}
_KL_F32: dict[str, Any] = {
  "channel_mult": (1, 1, 2, 2, 4, 4),
  "attention_resolutions": (16, 8),
}
_VQ: dict[str, Any] = {"disc_weight": 0.75, "disc_start": 250_001}
_VQ_F2: dict[str, Any] = _VQ | {"channel_mult": (1, 2), "z_channels": 2}
_VQ_F4: dict[str, Any] = _VQ | {
  "channel_mult": (1, 2, 4),
  "z_channels": 3,
  "disc_start": 0,
}
_VQ_F8: dict[str, Any] = _VQ | {
  "channel_mult": (1, 2, 2, 4),
  "attention_resolutions": (32,),
}
_VQ_F16: dict[str, Any] = _VQ | _KL_F16 | {"disc_layers": 2}

# Steps are those that the release's list of models prints.
PUBLISHED = {
  "kl-f4": _paper("kl-f4", 10, 176_991, z_channels=3, channel_mult=(1, 2, 4)),
  "kl-f8": _paper("kl-f8", 4, 246_803),
  "kl-f16": _paper("kl-f16", 6, 442_998, z_channels=16, **_KL_F16),
  "kl-f32": _paper("kl-f32", 6, 406_763, z_channels=64, **_KL_F32),
  "vq-f4": _paper("vq-f4", 8, 533_066, num_codes=8192, **_VQ_F4),
  "vq-f4-noattn": _paper(
    "vq-f4-noattn",
    8,
    658_131,
    num_codes=8192,
    mid_attention=False,
    **_VQ_F4 | {"disc_start": 11},
  ),
  "vq-f8": _paper(
    "vq-f8",
    10,
    971_043,
    num_codes=16384,
    **_VQ_F8 | {"disc_weight": 0.6, "disc_start": 1, "disc_layers": 2},
  ),
  "vq-f8-n256": _paper("vq-f8-n256", 10, 1_608_649, num_codes=256, **_VQ_F8),
  "vq-f16": _paper(
    "vq-f16", 14, 1_101_166, num_codes=16384, z_channels=8, **_VQ_F16
  ),
}

# Rows of Table 8 of which only f, |Z| and c are known: the rest is a guess
# from their neighbours.
COMPLETED = {
  "kl-f2": _paper("kl-f2", 10, 200_000, z_channels=2, channel_mult=(1, 2)),
  "kl-f16-c8": _paper("kl-f16-c8", 6, 400_000, z_channels=8, **_KL_F16),
  "kl-f32-c16": _paper("kl-f32-c16", 6, 400_000, z_channels=16, **_KL_F32),
  "vq-f2": _paper("vq-f2", 8, 500_000, num_codes=2048, **_VQ_F2),
  "vq-f2-n64": _paper("vq-f2-n64", 8, 500_000, num_codes=64, **_VQ_F2),
  "vq-f4-n256": _paper("vq-f4-n256", 8, 500_000, num_codes=256, **_VQ_F4),
  "vq-f32": _paper(
    "vq-f32", 14, 1_000_000, num_codes=16384, z_channels=16, **_VQ | _KL_F32
  ),
}

# Small, and trained for so short a time that the rate must be higher and fall,
# and the discriminator come earlier.
_SMALL = Config(
  test_dataset="",
  test_split="test",
  z_channels=3,
  mid_attention=False,
  disc_channels=32,
  disc_layers=2,
)
# Minutes on one GPU: 4,000 emoji, latents of 16 x 16.
_OPENMOJI = dataclasses.replace(
  _SMALL,
  dataset="openmoji/64",
  image_size=64,
  channels=32,
  channel_mult=(1, 2, 4),
  num_res_blocks=1,
  disc_start=2500,
  lr=3e-4,
  decay_steps=6000,
  ema_decay=0.999,
  batch_size=64,
  steps=6000,
  save_every=1000,
)
# Three minutes on two CPU cores: latents of 7 x 7, as narrow as normalisation
# in 32 groups allows.
_MNIST = dataclasses.replace(
  _SMALL,
  dataset="mnist5k",
  image_size=28,
  image_channels=1,
  channels=32,
  channel_mult=(1, 1, 2),
  num_res_blocks=0,
  disc_start=300,
  lr=1e-3,
  decay_steps=500,
  ema_decay=0.99,
  batch_size=32,
  steps=500,
  save_every=250,
  log_every=10,
)
_VQ_SMALL: dict[str, Any] = {"num_codes": 256, "disc_weight": 0.75}
SMALL = {
  "mnist5k_kl_f4": dataclasses.replace(_MNIST, name="mnist5k_kl_f4"),
  "mnist5k_kl_f2": dataclasses.replace(
    _MNIST, name="mnist5k_kl_f2", z_channels=2, channel_mult=(1, 1)
  ),
  "mnist5k_vq_f4": dataclasses.replace(
    _MNIST, name="mnist5k_vq_f4", **_VQ_SMALL
  ),
  "openmoji_kl_f4": dataclasses.replace(_OPENMOJI, name="openmoji_kl_f4"),
  "openmoji_vq_f4": dataclasses.replace(
    _OPENMOJI, name="openmoji_vq_f4", **_VQ_SMALL
  ),
}

CONFIGS = PUBLISHED | COMPLETED | SMALL


def smoke(config: Config) -> Config:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    num_codes=min(config.num_codes, 16),
    channels=32,
    channel_mult=(1,) * len(config.channel_mult),
    num_res_blocks=0,
    attention_resolutions=(),
    mid_attention=False,
    disc_channels=8,
    disc_layers=1,
    disc_start=2,
    decay_steps=0,
    batch_size=8,
    steps=6,
    save_every=3,
    log_every=1,
  )
