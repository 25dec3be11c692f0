"""BEiT's linear probe (the released script; Bao et al. 2022, App. D).

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Any, Literal

from experiments.beit.config import TRAIN_IMAGES, check_schedule, epoch_steps


@dataclasses.dataclass(frozen=True)
class Probe:
  """One probe of all blocks; the defaults are the release's for ImageNet-1k.

  Attributes:
    name: of the experiment.
    init: the frozen network: a workdir of `pretrain` or `finetune`, a released
      .pth file or a folder of the hub.
    fresh: probe that network with fresh parameters in the place of its own.
    dataset: name for `jaxgen.data.load`; its labels are the classes.
    split: TFDS split to train on.
    test_dataset: of the images to judge by; `dataset` if empty.
    test_split: TFDS split of those.
    num_classes: of the data set.
    labels: images of the training split to use, the same share of every class;
      0 for all.
    normalize: of the pixels: "half", in [-1, 1], "imagenet", or "trained",
      what the network was trained with.
    features: what is told of a block: "cls_mean", the class token and the mean
      of the patches, as in the release; "mean" alone, as in the paper; or
      "cls" alone, as in BEiT v2's paper after patch aggregation.
    augment: a new random crop and flip each time; else the centre, and its
      features are computed once and kept in memory.
    crop_area: the smallest share of an image that a random crop may have.
    flip: random horizontal flips, with `augment`.
    crop_pct: the network's image size over the length that an image's short
      side gets before the centre is cut out.
    lr: first rate of AdamW; it falls to 0 along half a cosine.
    decay_steps: the steps of the whole schedule.
    epoch_steps: steps for which a rate is kept; an epoch in the release.
    weight_decay: AdamW's, of weights and biases.
    batch_size: over all devices.
    seed: of initialisation, labels and data order.
    steps: run: number of updates.
    dtype: run: of the network's computation.
    fsdp: run: devices that share one copy of the parameters.
    workdir: run: where checkpoints and results go; runs/probe-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    smoke: run: shrink to a few steps, to see it run.
  """

  name: str = "in1k"
  init: str = ""
  fresh: bool = False
  dataset: str = "imagenet2012"
  split: str = "train"
  test_dataset: str = ""
  test_split: str = "validation"
  num_classes: int = 1000
  labels: int = 0
  normalize: Literal["trained", "half", "imagenet"] = "trained"
  features: Literal["cls_mean", "mean", "cls"] = "cls_mean"
  augment: bool = True
  crop_area: float = 0.08
  flip: bool = True
  crop_pct: float = 0.875
  lr: float = 4e-3
  decay_steps: int = 125_100
  epoch_steps: int = 1251
  weight_decay: float = 1e-4
  batch_size: int = 1024
  seed: int = 0
  steps: int = 125_100
  dtype: Literal["float32", "bfloat16"] = "float32"
  fsdp: int = 1
  workdir: str = ""
  data_dir: str = ""
  save_every: int = 5000
  log_every: int = 100
  num_workers: int = 0
  smoke: bool = False

  def __post_init__(self):
    """Refuses what cannot be trained.

    Raises:
      ValueError: a field is out of range, or two contradict each other.
    """
    check_schedule(self, "epoch_steps")
    if self.labels < 0:
      raise ValueError(f"labels must be at least 0, got {self.labels}")
    if not 0 < self.crop_pct <= 1:
      raise ValueError(f"crop_pct must lie in (0, 1], got {self.crop_pct}")


def _probe(name: str, epochs: int, **changes: Any) -> Probe:
  """So many epochs of ImageNet-1k in batches of 1024."""
  epoch = epoch_steps("imagenet2012", 1024)
  steps = epochs * epoch
  return Probe(
    name, decay_steps=steps, epoch_steps=epoch, steps=steps, **changes
  )


_SMALL: dict[str, Any] = {
  "test_split": "test",
  "num_classes": 10,
  "augment": False,
  "crop_pct": 1.0,
  "batch_size": 256,
  "save_every": 1000,
  "log_every": 10,
}
CONFIGS = {
  "in1k": _probe("in1k", 100),
  # The paper's text: patches alone, 50 epochs.
  "in1k_paper": _probe("in1k_paper", 50, features="mean"),
  # Seconds on two CPU cores.
  "mnist5k": Probe(
    "mnist5k",
    dataset="mnist5k",
    flip=False,
    decay_steps=60 * (TRAIN_IMAGES["mnist5k"] // 256),
    steps=60 * (TRAIN_IMAGES["mnist5k"] // 256),
    epoch_steps=TRAIN_IMAGES["mnist5k"] // 256,
    **_SMALL,
  ),
  **{
    name: Probe(
      name,
      dataset="openmoji/64",
      decay_steps=500,
      steps=500,
      epoch_steps=15,
      **_SMALL | {"num_classes": 11},
    )
    for name in ("openmoji64_small", "openmoji64")
  },
}


def smoke(config: Probe) -> Probe:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    labels=4 * config.num_classes,
    decay_steps=6,
    epoch_steps=2,
    steps=6,
    batch_size=8,
    save_every=3,
    log_every=1,
  )
