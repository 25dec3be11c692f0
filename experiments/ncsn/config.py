"""Hyper-parameters of NCSN (Song & Ermon 2019, App. B) and NCSNv2 (2020).

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Literal

from experiments.checks import check_run
from jaxgen.nn.ncsn import NETWORKS


@dataclasses.dataclass(frozen=True)
class Config:
  """One score network; the defaults are NCSN's for CIFAR-10.

  Attributes:
    name: of the experiment.
    dataset: TFDS name.
    split: TFDS split to train on.
    test_split: TFDS split of unseen images.
    image_size: height and width.
    image_channels: 1 for grey, 3 for colour.
    flip: random horizontal flips.
    crop: "center", or "celeba" as in DDIM.
    network: one of `jaxgen.nn.ncsn.NETWORKS`, or "small": a narrow one of this
      configuration's levels.
    conditional: NCSN's network, which knows the level, or NCSNv2's.
    channels: width of a "small" network.
    sigma_min: the smallest noise level, for data in [0, 1].
    sigma_max: the largest.
    T: the number of levels, the papers' L.
    step_size: eps of annealed Langevin dynamics, as in the released code.
    langevin_steps: at each level, the papers' T.
    lr: Adam's learning rate.
    adam_eps: of Adam.
    ema_decay: of the parameters' average; 0 for none.
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

  name: str = "ncsn/cifar10"
  dataset: str = "cifar10"
  split: str = "train"
  test_split: str = "test"
  image_size: int = 32
  image_channels: int = 3
  flip: bool = True
  crop: Literal["center", "celeba"] = "center"
  network: str = "ncsn/cifar10"
  conditional: bool = True
  channels: int = 128
  sigma_min: float = 0.01
  sigma_max: float = 1.0
  T: int = 10
  step_size: float = 2e-5
  langevin_steps: int = 100
  lr: float = 1e-3
  adam_eps: float = 1e-8
  ema_decay: float = 0.0
  batch_size: int = 128
  seed: int = 0
  steps: int = 200_000
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
      ValueError: a field is out of range.
    """
    check_run(self, "T", "langevin_steps")
    if not self.step_size > 0:
      raise ValueError(f"step_size must be positive, got {self.step_size}")
    if self.network != "small" and self.network not in NETWORKS:
      raise ValueError(
        f"network is 'small' or a published network, got {self.network!r}"
      )


# Data, eps, T, updates and batch of NCSNv2 (its Table 4 and released files).
_V2 = {
  "ncsnv2/cifar10": ({}, 6.2e-6, 5, 300_000, 128),
  "ncsnv2/celeba": (
    {"dataset": "celeb_a", "image_size": 64, "test_split": "test"},
    3.3e-6,
    5,
    210_000,
    128,
  ),
  "ncsnv2/church": (
    {
      "dataset": "lsun/church_outdoor",
      "image_size": 96,
      "test_split": "validation",
    },
    4.9e-6,
    4,
    200_000,
    128,
  ),
  "ncsnv2/bedroom": (
    {"dataset": "lsun/bedroom", "image_size": 128, "test_split": "validation"},
    1.8e-6,
    3,
    150_000,
    128,
  ),
  "ncsnv2/tower": (
    {"dataset": "lsun/tower", "image_size": 128, "test_split": "validation"},
    1.8e-6,
    3,
    150_000,
    128,
  ),
  "ncsnv2/ffhq": (
    {
      "dataset": "ffhq/256",
      "image_size": 256,
      "test_split": "train[:1000]",
      "adam_eps": 1e-3,
    },
    9e-7,
    3,
    80_000,
    32,
  ),
}


def _v2(name: str) -> Config:
  data, step_size, langevin_steps, steps, batch_size = _V2[name]
  network = NETWORKS[name]
  fields = {
    "name": name,
    "network": name,
    "conditional": False,
    "sigma_max": network.sigma_max,
    "T": network.num_scales,
    "step_size": step_size,
    "langevin_steps": langevin_steps,
    "lr": 1e-4,
    "ema_decay": 0.999,
    "steps": steps,
    "batch_size": batch_size,
    **data,
  }
  return Config(**fields)  # type: ignore[arg-type]


CONFIGS = {
  "ncsn/cifar10": Config(),
  "ncsn/celeba": Config(
    name="ncsn/celeba", network="ncsn/celeba", dataset="celeb_a", flip=True
  ),
  "ncsn/mnist": Config(
    name="ncsn/mnist",
    network="ncsn/mnist",
    dataset="mnist",
    image_size=28,
    image_channels=1,
    flip=False,
  ),
  **{name: _v2(name) for name in _V2},
  # Real digits on a CPU: NCSNv2's recipe for their distances and dimensions.
  "mnist5k": Config(
    name="mnist5k",
    dataset="mnist5k",
    image_size=28,
    image_channels=1,
    flip=False,
    network="small",
    conditional=False,
    channels=16,
    sigma_max=15.0,
    T=100,
    step_size=6.4e-6,
    langevin_steps=5,
    ema_decay=0.99,
    batch_size=32,
    steps=1000,
    save_every=500,
    log_every=10,
  ),
}


def smoke(config: Config) -> Config:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    network="small",
    channels=8,
    T=4,
    langevin_steps=2,
    batch_size=8,
    steps=4,
    save_every=2,
    log_every=1,
  )
