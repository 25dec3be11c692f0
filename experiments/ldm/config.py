"""Latent diffusion's hyper-parameters, one instance per released model.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models", Tables 12 to 15, and the release's models/ldm and
configs/latent-diffusion. Fields marked "run" say how a run is carried out, not
what is trained: they may change when a run is continued.
"""

import dataclasses
from typing import Literal

from experiments.checks import check_run

Condition = Literal[
  "none", "class", "text", "boxes", "segmentation", "low_res", "mask"
]
SEQUENCES = ("text", "boxes")  # what a transformer turns into a context
IMAGES = ("segmentation", "low_res", "mask")  # what is appended to x


@dataclasses.dataclass(frozen=True)
class Config:
  """One model; the defaults are those of LDM-4 on CelebA-HQ.

  Attributes:
    name: of the experiment.
    dataset: TFDS name.
    split: TFDS split to train on.
    test_split: TFDS split for captions, boxes and images to condition on.
    image_size: height and width of the images.
    image_channels: of the images.
    crop: "center" is OpenAI's; the paper's data are cropped at random where
      images are not square.
    flip: random horizontal flips.
    autoencoder: the published first stage that it was trained with; empty if
      it is one of our own.
    first_stage: its weights: a workdir of `experiments.first_stage.train`, or
      NAME:PATH of a published one. It is not trained any further; checkpoints
      contain it.
    latent_size: height and width of the latents.
    latent_channels: of the latents.
    latent_scale: what latents are multiplied by.
    scale_by_std: multiply by 1 / std of the first batch's latents as well,
      which the checkpoint remembers (App. G).
    condition: what the network is told: a class, a text, bounding boxes, a
      segmentation, a smaller image, or an image with a hole.
    num_classes: classes; of "boxes" those that the tokens count by, of
      "segmentation" the channels of the map.
    cond_dropout: share of examples that are told nothing, for classifier-free
      guidance (Ho & Salimans 2022).
    context_dim: size of the context's tokens; None for none.
    text_layers: blocks of the transformer that encodes a text or boxes.
    vocab_size: its tokens.
    max_length: its positions.
    vocab: bert-base-uncased's vocab.txt, for the tokens of a text; by default
      the tokens are learned from the captions.
    concat_channels: of the condition that is appended to x.
    low_res_size: height of the smaller image.
    channels: width of the U-Net's first level.
    channel_mult: width of each level, in units of `channels`.
    num_res_blocks: residual blocks per level.
    attention_resolutions: the rates at which there is attention.
    num_heads: of the attention.
    num_head_channels: channels of a head, in place of num_heads.
    scale_shift_norm: the time scales and shifts; if False it is added.
    resblock_updown: residual blocks change the size.
    transformer_depth: blocks of each of the U-Net's transformers.
    dropout: rate in the residual blocks.
    T: number of noising steps.
    beta_start: the first beta.
    beta_end: the last; their square roots are evenly spaced.
    loss: of eps, squared ("l2") or absolute ("l1").
    lr: AdamW's learning rate after the warm-up.
    warmup_steps: updates over which it rises.
    weight_decay: AdamW's.
    ema_decay: of the parameters' average, min(ema_decay, (1 + n) / (10 + n)).
    batch_size: over all devices.
    steps: run: number of updates.
    seed: of initialisation, data order and noise.
    cache_latents: run: encode the split once, into the workdir.
    dtype: run: of the U-Net's and the condition's computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    tensor: run: devices that share the work on one example.
    accumulate: run: micro-batches that a batch is worked through in.
    workdir: run: where checkpoints and results go; runs/ldm-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "celebahq256"
  dataset: str = "celeb_a_hq/256"
  split: str = "train"
  test_split: str = "train[:1000]"
  image_size: int = 256
  image_channels: int = 3
  crop: Literal["center", "celeba"] = "center"
  flip: bool = False
  autoencoder: str = "vq-f4"
  first_stage: str = ""
  latent_size: int = 64
  latent_channels: int = 3
  latent_scale: float = 1.0
  scale_by_std: bool = False
  condition: Condition = "none"
  num_classes: int = 0
  cond_dropout: float = 0.0
  context_dim: int | None = None
  text_layers: int = 0
  vocab_size: int = 0
  max_length: int = 0
  vocab: str = ""
  concat_channels: int = 0
  low_res_size: int = 0
  channels: int = 224
  channel_mult: tuple[float, ...] = (1, 2, 3, 4)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (2, 4, 8)
  num_heads: int = 8
  num_head_channels: int | None = 32
  scale_shift_norm: bool = False
  resblock_updown: bool = False
  transformer_depth: int = 1
  dropout: float = 0.0
  T: int = 1000
  beta_start: float = 0.0015
  beta_end: float = 0.0195
  loss: Literal["l2", "l1"] = "l2"
  lr: float = 9.6e-5
  warmup_steps: int = 0
  weight_decay: float = 0.01
  ema_decay: float = 0.9999
  batch_size: int = 48
  seed: int = 0
  steps: int = 410_000
  cache_latents: bool = False
  dtype: Literal["float32", "bfloat16"] = "float32"
  remat: bool = False
  fsdp: int = 1
  tensor: int = 1
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
      ValueError: a field is out of range, or two do not fit.
    """
    check_run(self, "T")
    if self.weight_decay < 0:
      raise ValueError(
        f"weight_decay must not be negative, got {self.weight_decay}"
      )
    if not 0 <= self.cond_dropout < 1:
      raise ValueError(
        f"cond_dropout must lie in [0, 1), got {self.cond_dropout}"
      )
    if self.cond_dropout and self.condition not in ("class", "text"):
      raise ValueError(
        "cond_dropout hides a class or a text, not condition "
        f"{self.condition!r}"
      )
    if self.cache_latents and self.condition in IMAGES:
      raise ValueError(
        f"cache_latents keeps no images, which condition {self.condition!r} "
        "needs"
      )


def smoke(config: Config) -> Config:
  """The same experiment, shrunk to seconds; the first stage stays its own."""
  text = config.condition == "text"
  attends = config.context_dim is not None  # in the middle, still
  return dataclasses.replace(
    config,
    channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(),
    num_heads=2,
    num_head_channels=None,
    resblock_updown=False,
    transformer_depth=1,
    context_dim=16 if attends else None,
    text_layers=min(config.text_layers, 1),
    vocab_size=min(config.vocab_size, 300) if text else config.vocab_size,
    max_length=min(config.max_length, 12) if text else config.max_length,
    remat=False,
    lr=1e-3,
    warmup_steps=2,
    batch_size=8,
    steps=4,
    save_every=2,
    log_every=1,
  )
