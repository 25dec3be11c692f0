"""BEiT-3's fine-tuning on ImageNet-1k, by the recipes of `recipes`.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Literal

from experiments.beit.config import epoch_steps
from experiments.beit3.config import SIZES, check_trunk
from experiments.beit3.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Classify:
  """Classes of images; the defaults are those of the released base network.

  Attributes:
    name: of the experiment.
    dataset: name for `jaxgen.data.load`; its labels are the classes.
    split: TFDS split to train on.
    test_dataset: of the images to judge by; `dataset` if empty.
    test_split: TFDS split of those; empty for no judgement.
    init: the trunk to start from: a workdir of `pretrain`, or a released .pth
      file; from scratch if empty.
    init_size: of the images that a released file was trained on.
    image_size: height and width.
    num_classes: of the data set.
    normalize: of the pixels: "half", in [-1, 1], or "imagenet".
    labels: images of the training split to use, the same share of every class;
      0 for all.
    crop_area: the smallest share of an image that a random crop may have.
    flip: random horizontal flips.
    rand_augment: magnitude of RandAugment; 0 for none.
    erasing: probability of random erasing.
    mixup: alpha of mixup, 0 for none.
    cutmix: alpha of cutmix, 0 for none.
    smoothing: of the labels.
    crop_pct: of the images to judge by: image_size over the length that their
      short side gets before the centre is cut out.
    patch_size: height and width of a patch.
    width: channels of a token.
    num_layers: blocks.
    num_heads: of the attention.
    mlp_width: channels between an expert's dense layers.
    shared_attention: the paper's network; else the released one.
    sub_norm: normalisations before the branches' last layers.
    paper_init: the paper's initial weights.
    drop_path: rate of stochastic depth in the last block.
    lr: highest rate of AdamW.
    min_lr: the last rate.
    warmup: steps in which the rate rises from 0.
    decay_steps: the steps of the whole schedule.
    layer_decay: of the rate, from each layer to the one below.
    weight_decay: AdamW's.
    b2: AdamW's second beta; the first is 0.9, epsilon 1e-8.
    batch_size: over all devices.
    seed: of initialisation, labels, data order and noise.
    steps: run: number of updates.
    dtype: run: of the network's computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    accumulate: run: micro-batches that a batch is worked through in; each has
      a mixture of its own.
    workdir: run: where checkpoints go; runs/beit3-classify-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "base"
  dataset: str = "imagenet2012"
  split: str = "train"
  test_dataset: str = ""
  test_split: str = "validation"
  init: str = ""
  init_size: int = 224
  image_size: int = 224
  num_classes: int = 1000
  normalize: Literal["half", "imagenet"] = "imagenet"
  labels: int = 0
  crop_area: float = 0.08
  flip: bool = True
  rand_augment: int = 9
  erasing: float = 0.25
  mixup: float = 0.8
  cutmix: float = 1.0
  smoothing: float = 0.1
  crop_pct: float = 1.0
  patch_size: int = 16
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_width: int = 3072
  shared_attention: bool = False
  sub_norm: bool = True
  paper_init: bool = False
  drop_path: float = 0.15
  lr: float = 7e-4
  min_lr: float = 1e-6
  warmup: int = 6255
  decay_steps: int = 62_550
  layer_decay: float = 0.65
  weight_decay: float = 0.05
  b2: float = 0.999
  batch_size: int = 1024
  seed: int = 0
  steps: int = 62_550
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
    check_trunk(self, "accumulate", "num_classes")
    for name in ("smoothing", "erasing"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f"{name} must lie in [0, 1), got {getattr(self, name)}"
        )
    if not 0 < self.crop_pct <= 1:
      raise ValueError(f"crop_pct must lie in (0, 1], got {self.crop_pct}")


def _published(name: str) -> Classify:
  size = name.split("_")[0]
  recipe = RECIPES[f"imagenet_{size}"]
  epoch = epoch_steps("imagenet2012", recipe.batch_size)
  fields = (
    *("lr", "layer_decay", "drop_path", "weight_decay", "batch_size"),
    *("image_size", "b2"),
  )
  return Classify(
    name,
    **{field: getattr(recipe, field) for field in fields},
    warmup=recipe.warmup * epoch,
    decay_steps=recipe.epochs * epoch,
    steps=recipe.epochs * epoch,
    **{k: v for k, v in SIZES[size].items() if hasattr(Classify, k)},
  )


# The paper's giant network had no layer for classes: their names were texts.
CLASSIFIERS = {
  **{
    name: _published(name)
    for name in ("base", "base_indomain", "large", "large_indomain", "giant")
  },
  # Small enough for a CPU; the labels are Unicode's groups.
  "openmoji32": Classify(
    "openmoji32",
    dataset="openmoji/32",
    test_split="test",
    image_size=32,
    num_classes=11,
    normalize="half",
    crop_area=0.4,
    rand_augment=0,
    erasing=0.0,
    mixup=0.0,
    cutmix=0.0,
    patch_size=8,
    width=96,
    num_layers=4,
    num_heads=4,
    mlp_width=384,
    shared_attention=True,
    paper_init=True,
    drop_path=0.0,
    lr=3e-4,
    warmup=100,
    decay_steps=1500,
    layer_decay=0.9,
    batch_size=64,
    steps=1500,
    save_every=500,
    log_every=10,
  ),
}
