"""Score SDE's hyper-parameters (Song et al. 2021, App. F to H) by model.

`CONFIGS` has the names of the release: SDE/DATA_NETWORK, "continuous" where the
network is trained at all t in [0, 1] and not at the levels of SMLD or DDPM.
Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Literal

from experiments.checks import check_run
from jaxgen.nn.ncsnpp import NETWORKS


@dataclasses.dataclass(frozen=True)
class Config:
  """One score model; the defaults are those of VP on CIFAR-10.

  Attributes:
    name: of the experiment.
    dataset: TFDS name.
    split: TFDS split to train on.
    test_split: TFDS split for the likelihood of unseen images.
    image_size: height and width.
    image_channels: 1 for grey, 3 for colour.
    flip: random horizontal flips.
    crop: "center", or "celeba" as in DDIM.
    sde: "ve", "vp" or "subvp" (Eq. 9, 11, 12).
    continuous: train at all t, or at the T levels of SMLD or DDPM.
    network: one of `jaxgen.nn.ncsnpp.NETWORKS`; or "unet", DDPM's U-Net with
      the fields below and EDM's preconditioning, which small networks learn
      sooner.
    channels: of a "unet", as are the next five.
    channel_mult: widths of its levels.
    num_res_blocks: blocks per level.
    attention_resolutions: heights of the feature maps with attention.
    patch_size: pixels per side folded into channels.
    dropout: rate in its residual blocks.
    T: number of levels, and of steps of a sampler.
    beta_min: of VP and sub-VP.
    beta_max: of VP and sub-VP.
    sigma_min: of VE, for data in [0, 1].
    sigma_max: of VE, for data in [0, 1].
    likelihood_weighting: weight the loss by g^2.
    reduction: over dimensions, see `jaxgen.diffusion.score_matching_loss`.
    snr: of the corrector.
    lr: Adam's learning rate after the warm-up.
    warmup_steps: linear warm-up.
    decay_steps: the rate falls to 0 over so many steps; 0 for the paper's
      constant rate.
    clip_norm: the gradient's largest global norm.
    ema_decay: of the parameters' average, which samples are drawn from.
    ema_warmup: use min(ema_decay, (1 + n) / (10 + n)), for short runs.
    batch_size: over all devices.
    seed: of initialisation, data order and noise.
    steps: run: number of updates.
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

  name: str = "vp/cifar10_ddpmpp_continuous"
  dataset: str = "cifar10"
  split: str = "train"
  test_split: str = "test"
  image_size: int = 32
  image_channels: int = 3
  flip: bool = True
  crop: Literal["center", "celeba"] = "center"
  sde: Literal["ve", "vp", "subvp"] = "vp"
  continuous: bool = True
  network: str = "vp/cifar10_ddpmpp_continuous"
  channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 2, 2)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (16,)
  patch_size: int = 1
  dropout: float = 0.1
  T: int = 1000
  beta_min: float = 0.1
  beta_max: float = 20.0
  sigma_min: float = 0.01
  sigma_max: float = 50.0
  likelihood_weighting: bool = False
  reduction: Literal["mean", "sum"] = "mean"
  snr: float = 0.16
  lr: float = 2e-4
  warmup_steps: int = 5000
  decay_steps: int = 0
  clip_norm: float = 1.0
  ema_decay: float = 0.9999
  ema_warmup: bool = False
  batch_size: int = 128
  seed: int = 0
  steps: int = 1_300_000
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
    if self.network != "unet" and self.network not in NETWORKS:
      raise ValueError(
        f"network is 'unet' or a published network, got {self.network!r}"
      )
    if not self.continuous and self.sde == "subvp":
      raise ValueError("the sub-VP SDE has no discrete levels: continuous only")
    if self.likelihood_weighting and not self.continuous:
      raise ValueError("likelihood weighting needs continuous training")


# By the middle of the release's names; the likelihoods of large images are not
# in the paper, their test splits are for ours.
_DATA = {
  "cifar10": {},
  "celeba": {
    "dataset": "celeb_a",
    "image_size": 64,
    "test_split": "validation",
  },
  "bedroom": {
    "dataset": "lsun/bedroom",
    "image_size": 256,
    "test_split": "validation",
  },
  "church": {
    "dataset": "lsun/church_outdoor",
    "image_size": 256,
    "test_split": "validation",
  },
  "celebahq_256": {
    "dataset": "celeb_a_hq/256",
    "image_size": 256,
    "test_split": "train[:1000]",
  },
  "celebahq": {
    "dataset": "celeb_a_hq/1024",
    "image_size": 1024,
    "test_split": "train[:1000]",
  },
  "ffhq_256": {
    "dataset": "ffhq/256",
    "image_size": 256,
    "test_split": "train[:1000]",
  },
  "ffhq_1024": {
    "dataset": "ffhq/1024",
    "image_size": 1024,
    "test_split": "train[:1000]",
  },
}


def _published(name: str) -> Config:
  """The release's configuration of this name."""
  sde, rest = name.split("/")
  data = max((d for d in _DATA if rest.startswith(d)), key=len)
  if (sde, rest) in (("vp", "celebahq_ddpm"),):
    data = "celebahq_256"
  fields: dict = {**_DATA[data]}
  size = fields.get("image_size", 32)
  network = NETWORKS[name]
  if size >= 256:
    fields |= {"batch_size": 64, "steps": 2_400_000, "snr": 0.075}
    fields |= {"dropout": 0.0, "lr": 2e-4 if sde == "ve" else 2e-5}
  if size == 1024:
    fields |= {"batch_size": 8, "snr": 0.15}
  if rest.endswith("deep_continuous"):
    fields["steps"] = 950_000
  if sde == "ve":
    fields |= {
      "reduction": "sum",
      "ema_decay": 0.999,
      "T": network.num_scales,
      "sigma_max": network.sigma_max,
    }
  if data == "celeba":
    fields["snr"] = 0.17
  if size == 1024:
    fields["ema_decay"] = 0.9999
  if data == "ffhq_1024":
    fields["reduction"] = "mean"
  return Config(
    name=name,
    sde=sde,  # type: ignore[arg-type]
    continuous=rest.endswith("continuous"),
    network=name,
    **fields,
  )


def _mnist5k(sde: Literal["ve", "vp", "subvp"], continuous: bool) -> Config:
  """Small enough for two CPU cores: 4 x 4 patches, one level."""
  name = f"mnist5k_{sde}" + ("" if continuous else "_discrete")
  return Config(
    name=name,
    dataset="mnist5k",
    image_size=28,
    image_channels=1,
    flip=False,
    sde=sde,
    continuous=continuous,
    network="unet",
    channels=64,
    channel_mult=(1,),
    attention_resolutions=(),
    patch_size=4,
    dropout=0.0,
    sigma_max=15.0,  # the largest distance between two digits, rounded up
    lr=2e-3,
    warmup_steps=100,
    decay_steps=1100,
    ema_decay=0.99,
    ema_warmup=True,
    batch_size=64,
    steps=1100,
    save_every=500,
    log_every=10,
  )


def _openmoji32(sde: Literal["ve", "vp", "subvp"]) -> Config:
  """The CIFAR-10 network of the paper on 4,000 emoji; hours on one GPU."""
  kinds = {"ve": "ncsnpp_continuous", "vp": "ddpmpp_continuous"}
  base = _published(f"{sde}/cifar10_{kinds.get(sde, kinds['vp'])}")
  return dataclasses.replace(
    base,
    name=f"openmoji32_{sde}",
    dataset="openmoji/32",
    flip=False,
    warmup_steps=1000,
    ema_decay=0.999,
    ema_warmup=True,
    steps=60_000,
  )


CONFIGS = {name: _published(name) for name in NETWORKS}
CONFIGS |= {
  c.name: c
  for c in (
    *(_mnist5k(sde, True) for sde in ("ve", "vp", "subvp")),
    *(_mnist5k(sde, False) for sde in ("ve", "vp")),
    *(_openmoji32(sde) for sde in ("ve", "vp", "subvp")),
  )
}


def smoke(config: Config) -> Config:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    network="unet",
    channels=32,
    channel_mult=(1,),
    attention_resolutions=(),
    num_res_blocks=1,
    patch_size=4,
    T=8,
    beta_max=min(config.beta_max, 5.0),
    sigma_max=min(config.sigma_max, 5.0),
    warmup_steps=2,
    batch_size=8,
    steps=6,
    save_every=3,
    log_every=1,
  )
