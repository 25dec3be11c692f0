"""BEiT-3's fine-tuning for tasks, by the recipes of `recipes`.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued. Retrieval is in `retrieval_config`.
"""

import dataclasses
from typing import Any, Literal

from experiments.beit3.config import GIANT, SHORT, SIZES, SMALL, check_trunk
from experiments.beit3.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Finetune:
  """What all tasks have; the defaults are those of the released base network.

  Attributes:
    name: of the experiment.
    dataset: of the task, for `jaxgen.data.load`.
    split: to train on.
    test_split: to judge by; empty for no judgement.
    init: the trunk to start from: a workdir of `pretrain`, or a released .pth
      file; from scratch if empty.
    init_size: of the images that a released file was trained on.
    image_size: height and width.
    crop_area: the smallest share of an image that a random crop may have.
    flip: random horizontal flips.
    rand_augment: magnitude of two random changes; 0 for none. Its operations
      are those of the released code; see `jaxgen.data.rand_augment`.
    spm: the published beit3.spm; if empty the tokenizer of `init`, or else one
      that is learnt from the texts.
    max_length: tokens of a text, start and end included.
    patch_size: height and width of a patch.
    width: channels of a token.
    num_layers: blocks.
    num_heads: of the attention.
    mlp_width: channels between an expert's dense layers.
    vocab_size: tokens of the text tokenizer, at least.
    shared_attention: the paper's network; else the released one.
    pair_layers: top blocks with an expert for pairs.
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
    seed: of initialisation, data order and all that is random.
    steps: run: number of updates.
    dtype: run: of the network's computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    accumulate: run: micro-batches that a batch is worked through in.
    workdir: run: where checkpoints go; runs/beit3-TASK-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "base"
  dataset: str = ""
  split: str = "train"
  test_split: str = "val"
  init: str = ""
  init_size: int = 224
  image_size: int = 224
  crop_area: float = 0.5
  flip: bool = True
  rand_augment: int = 0
  spm: str = ""
  max_length: int = 64
  patch_size: int = 16
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_width: int = 3072
  vocab_size: int = 64010
  shared_attention: bool = False
  pair_layers: int = 0
  sub_norm: bool = True
  paper_init: bool = False
  drop_path: float = 0.1
  lr: float = 1e-4
  min_lr: float = 1e-6
  warmup: int = 1000
  decay_steps: int = 10_000
  layer_decay: float = 1.0
  weight_decay: float = 0.05
  b2: float = 0.999
  batch_size: int = 256
  seed: int = 0
  steps: int = 10_000
  dtype: str = "float32"
  remat: bool = False
  fsdp: int = 1
  accumulate: int = 1
  workdir: str = ""
  data_dir: str = ""
  save_every: int = 1000
  log_every: int = 100
  num_workers: int = 0
  on_nan: Literal["stop", "skip"] = "stop"
  smoke: bool = False

  def __post_init__(self):
    """Refuses what cannot be trained.

    Raises:
      ValueError: a field is out of range, or two contradict each other.
    """
    check_trunk(self, "accumulate")


@dataclasses.dataclass(frozen=True)
class Answers(Finetune):
  """Answers out of a list to questions about images, VQAv2's.

  Attributes:
    num_answers: in the list.
    head_rate: what the rate of the head's last layers is multiplied by.
  """

  num_answers: int = 3129
  head_rate: float = 20.0


@dataclasses.dataclass(frozen=True)
class Statements(Finetune):
  """Whether a statement is true of two images, NLVR2's."""


@dataclasses.dataclass(frozen=True)
class Captions(Finetune):
  """Captions of images, COCO's.

  Attributes:
    mask_share: of a caption's tokens to mask; 0.7 in the released commands,
      0.6 in the paper.
    smoothing: of the words.
    drop_worst: share of the masked words, those that fit worst, left out of
      the loss.
    drop_worst_after: updates before any word is.
    num_beams: of the search for the likeliest caption.
    length_penalty: of that search; see `jaxgen.masked.beam_search`.
  """

  mask_share: float = 0.7
  smoothing: float = 0.1
  drop_worst: float = 0.2
  drop_worst_after: int = 12_000
  num_beams: int = 3
  length_penalty: float = 0.6

  def __post_init__(self):
    """Refuses what cannot be trained.

    Raises:
      ValueError: a field is out of range, or two contradict each other.
    """
    super().__post_init__()
    if not 0 < self.mask_share < 1:
      raise ValueError(f"mask_share must lie in (0, 1), got {self.mask_share}")
    for name in ("smoothing", "drop_worst"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f"{name} must lie in [0, 1), got {getattr(self, name)}"
        )
    if self.num_beams < 1 or self.max_length < 3:
      raise ValueError(
        "captions need num_beams >= 1 and max_length >= 3, got "
        f"{self.num_beams} and {self.max_length}"
      )


# Training examples; of VQAv2 a little fewer, the questions that have no answer
# in the list, and those of 1,000 of val2014's 40,504 images, are left out.
_VQA = 443_757 + 214_354 * 39_504 // 40_504
_NLVR2 = 86_373
_COCO = 5 * 113_287
_COCO_SPLITS: dict[str, Any] = {"split": "train+restval", "test_split": "test"}
_FIELDS = ("lr", "layer_decay", "drop_path", "weight_decay", "batch_size")


def _published(task: str, size: str, examples: int) -> dict[str, Any]:
  """The fields of a recipe, but for the learning rate's own."""
  recipe = RECIPES[f"{task}_{size}"]
  epoch = examples // recipe.batch_size
  fields = {name: getattr(recipe, name) for name in _FIELDS}
  shared = ("image_size", "max_length", "b2")
  return (
    fields
    | {name: getattr(recipe, name) for name in shared}
    | {
      "rand_augment": 7 if recipe.rand_augment else 0,
      "warmup": recipe.warmup * epoch,
      "decay_steps": recipe.epochs * epoch,
      "steps": recipe.epochs * epoch,
    }
    | SIZES[size]
  )


def _answers(name: str, **changes: Any) -> Answers:
  fields = _published("vqav2", name.split("_")[0], _VQA)
  return Answers(name, "vqav2:vqav2", **fields | changes)


def _statements(name: str) -> Statements:
  size, _, indomain = name.partition("_")
  fields = _published("nlvr2", size, _NLVR2)
  if indomain:
    fields["lr"] = RECIPES[f"nlvr2_{size}"].indomain_lr
  return Statements(name, "nlvr2:nlvr2", test_split="dev", **fields)


def _captions(name: str) -> Captions:
  """NoCaps' networks are trained on COCO, too."""
  task, size = "coco_captioning", name
  if name.startswith("nocaps_"):
    task, size = "nocaps", name.removeprefix("nocaps_")
  fields = _published(task, size.split("_")[0], _COCO)
  return Captions(name, "coco_captions", **fields | _COCO_SPLITS)


# Small enough for a CPU.
_TOY: dict[str, Any] = (
  SMALL
  | SHORT
  | {"shared_attention": True, "pair_layers": 1, "lr": 3e-4, "save_every": 500}
)
_SHAPES = _TOY | {
  "dataset": "shapes",
  "max_length": 32,
  "flip": False,
  "crop_area": 1.0,
}

# "indomain" networks start from the released weights of that name. How the one
# for images of 768 pixels was trained, also on questions of Visual Genome, is
# not published.
ANSWERS = {
  **{
    name: _answers(name)
    for name in ("base", "base_indomain", "large", "large_indomain", "giant")
  },
  "large_indomain_768": _answers("large_indomain_768", image_size=768),
  "shapes": Answers("shapes", **_SHAPES, num_answers=5, head_rate=1.0),
}
STATEMENTS = {
  **{
    name: _statements(name)
    for name in ("base", "base_indomain", "large", "large_indomain", "giant")
  },
  "shapes": Statements("shapes", **_SHAPES),
}
CAPTIONS = {
  **{
    name: _captions(name)
    for name in (
      *("base", "base_indomain", "large"),
      *("nocaps_base", "nocaps_base_indomain", "nocaps_large"),
    )
  },
  # Wang et al. 2023, Table 13.
  "giant": Captions(
    "giant",
    "coco_captions",
    **_COCO_SPLITS,
    **GIANT,
    image_size=392,
    rand_augment=7,
    max_length=32,
    drop_path=0.3,
    lr=8e-6,
    warmup=1600,
    decay_steps=16_000,
    weight_decay=0.01,
    batch_size=256,
    steps=16_000,
    mask_share=0.6,
  ),
  "openmoji32": Captions(
    "openmoji32", **_TOY | {"test_split": "test", "crop_area": 0.8}
  ),
}
