"""BEiT v2's tokenizers (Peng et al. 2022, and the released command).

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Any, Literal

from experiments.beit.config import check_schedule, epoch_steps


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """One VQ-KD training; the defaults are the release's, with CLIP's features.

  Attributes:
    name: of the experiment.
    dataset: name for `jaxgen.data.load`; labels are not used.
    split: TFDS split to train on.
    test_split: TFDS split to evaluate on.
    image_size: height and width of what the tokenizer sees.
    image_channels: 1 for grey, 3 for colour.
    flip: random horizontal flips.
    crop_area: the smallest share of an image that a random crop may have.
    crop_pct: share of an image's short side that evaluation sees.
    teacher: whose features are the target: clip:PATH or dino:PATH of published
      weights, the name of a network that ships with jaxgen, such as
      "mnist5k-cnn", or a workdir of `experiments.beit.finetune`. It has as many
      features as the image has patches.
    teacher_dim: channels of its features.
    num_codes: of the codebook.
    code_dim: channels of a code.
    kmeans: the codes start as k-means' centres of the first batch; else
      anywhere on the sphere.
    decay: of the codebook's moving averages.
    restart: codes used less than so much of the mean begin anew; 0, as
      published, for never.
    patch_size: height and width of a patch.
    width: channels of a token, in encoder and decoder.
    num_layers: blocks of the encoder.
    decoder_layers: blocks of the decoder; 1 was released, too.
    num_heads: of the attention.
    mlp_width: channels between a block's dense layers.
    lr: highest rate of AdamW: 5e-5 for each 128 images of a batch.
    min_lr: the last rate.
    warmup: steps in which the rate rises from 0.
    decay_steps: the steps of the whole schedule.
    weight_decay: AdamW's.
    b2: AdamW's second beta; the first is 0.9, epsilon 1e-8.
    clip_norm: of the whole gradient; None, as published, for no limit.
    batch_size: over all devices.
    seed: of initialisation, data order and crops.
    steps: run: number of updates.
    dtype: run: of the networks' computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    workdir: run: where checkpoints and results go; runs/vqkd-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    eval_every: run: steps between evaluations of the test split.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "base_3_clip"
  dataset: str = "imagenet2012"
  split: str = "train"
  test_split: str = "validation"
  image_size: int = 224
  image_channels: int = 3
  flip: bool = True
  crop_area: float = 0.08
  crop_pct: float = 0.875
  teacher: str = ""
  teacher_dim: int = 512
  num_codes: int = 8192
  code_dim: int = 32
  kmeans: bool = True
  decay: float = 0.99
  restart: float = 0.0
  patch_size: int = 16
  width: int = 768
  num_layers: int = 12
  decoder_layers: int = 3
  num_heads: int = 12
  mlp_width: int = 3072
  lr: float = 2e-4
  min_lr: float = 1e-5
  warmup: int = 25_020
  decay_steps: int = 250_200
  weight_decay: float = 1e-4
  b2: float = 0.99
  clip_norm: float | None = None
  batch_size: int = 512
  seed: int = 0
  steps: int = 250_200
  dtype: Literal["float32", "bfloat16"] = "float32"
  remat: bool = False
  fsdp: int = 1
  workdir: str = ""
  data_dir: str = ""
  save_every: int = 5000
  log_every: int = 100
  eval_every: int = 2502
  num_workers: int = 0
  on_nan: Literal["stop", "skip"] = "stop"
  smoke: bool = False

  def __post_init__(self):
    """Refuses what cannot be trained.

    Raises:
      ValueError: a field is out of range, or two contradict each other.
    """
    counts = "teacher_dim", "code_dim", "num_layers", "decoder_layers"
    check_schedule(self, *counts, "eval_every")
    if self.num_codes < 2:
      raise ValueError(f"num_codes must be at least 2, got {self.num_codes}")
    if not 0 < self.decay < 1:
      raise ValueError(f"decay must lie in (0, 1), got {self.decay}")
    if self.image_size % self.patch_size:
      raise ValueError(
        f"image_size must be a multiple of patch_size = {self.patch_size}, got "
        f"{self.image_size}"
      )

  @property
  def grid(self) -> int:
    """Patches along a side of the image."""
    return self.image_size // self.patch_size


EPOCHS, WARMUP_EPOCHS, BASE_LR = 100, 10, 5e-5


def _released(name: str, **changes: Any) -> Tokenizer:
  """100 epochs of ImageNet-1k in batches of 512 (release: TOKENIZER.md)."""
  batch = Tokenizer.batch_size
  epoch = epoch_steps(Tokenizer.dataset, batch)
  return Tokenizer(
    name,
    lr=BASE_LR * batch / 128,
    warmup=WARMUP_EPOCHS * epoch,
    decay_steps=EPOCHS * epoch,
    steps=EPOCHS * epoch,
    eval_every=epoch,
    **changes,
  )


PUBLISHED = {
  "base_3_clip": _released("base_3_clip"),
  "base_1_clip": _released("base_1_clip", decoder_layers=1),
  "base_1_dino": _released("base_1_dino", decoder_layers=1, teacher_dim=768),
}
# Three minutes on one CPU core: 7 x 7 tokens, the teacher a small classifier of
# digits that ships with jaxgen. Without restarts a short training at a high
# rate leaves most codes behind, never to be chosen again.
_MNIST = Tokenizer(
  name="mnist5k",
  dataset="mnist5k",
  test_split="test",
  image_size=28,
  image_channels=1,
  flip=False,
  crop_area=0.5,
  crop_pct=1.0,
  teacher="mnist5k-cnn",
  teacher_dim=128,
  num_codes=128,
  code_dim=16,
  restart=0.1,
  patch_size=4,
  width=64,
  num_layers=4,
  decoder_layers=1,
  num_heads=4,
  mlp_width=256,
  lr=1e-3,
  warmup=100,
  decay_steps=1000,
  steps=1000,
  batch_size=32,
  save_every=500,
  log_every=10,
  eval_every=250,
)
SMALL = {
  "mnist5k": _MNIST,
  "mnist5k_3": dataclasses.replace(_MNIST, name="mnist5k_3", decoder_layers=3),
  # Minutes on one CPU core: 8 x 8 tokens of 4,000 emoji, which the teacher sees
  # at 32 x 32.
  "openmoji64_small": dataclasses.replace(
    _MNIST,
    name="openmoji64_small",
    dataset="openmoji/64",
    image_size=64,
    patch_size=8,
    image_channels=3,
    flip=True,
    teacher="openmoji32-cnn",
  ),
  # About ten minutes on one GPU.
  "openmoji64": Tokenizer(
    name="openmoji64",
    dataset="openmoji/64",
    test_split="test",
    image_size=64,
    crop_area=0.2,
    crop_pct=1.0,
    teacher="openmoji32-cnn",
    teacher_dim=128,
    num_codes=512,
    code_dim=32,
    restart=0.1,
    patch_size=8,
    width=256,
    num_layers=8,
    decoder_layers=1,
    num_heads=8,
    mlp_width=1024,
    lr=5e-4,
    warmup=500,
    decay_steps=4000,
    steps=4000,
    batch_size=128,
    save_every=1000,
    log_every=50,
    eval_every=1000,
  ),
}
CONFIGS = PUBLISHED | SMALL


def smoke(config: Tokenizer) -> Tokenizer:
  """The same experiment, shrunk to seconds."""
  return dataclasses.replace(
    config,
    num_codes=min(config.num_codes, 16),
    code_dim=8,
    width=32,
    num_layers=1,
    decoder_layers=1,
    num_heads=2,
    mlp_width=64,
    warmup=2,
    decay_steps=6,
    steps=6,
    batch_size=8,
    save_every=3,
    log_every=1,
    eval_every=3,
  )
