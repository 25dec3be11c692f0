"""BEiT-3's fine-tuning for retrieval, by the recipes of `recipes`.

Fields marked "run" say how a run is carried out, not what is trained: they may
change when a run is continued.
"""

import dataclasses
from typing import Any, Literal

from experiments.beit3.config import SHORT, SIZES, SMALL, check_trunk
from experiments.beit3.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Retrieval:
  """A dual encoder of images and captions, trained to tell pairs from others.

  Attributes:
    name: of the experiment.
    dataset: TFDS name, with captions.
    split: TFDS split to train on.
    test_split: TFDS split to search in.
    init: the trunk to start from: a workdir of `pretrain`, or a released .pth
      file; from scratch if empty.
    init_size: of the images that a released file was trained on.
    image_size: height and width.
    crop_area: the smallest share of an image that a random crop may have.
    flip: random horizontal flips.
    spm: the published beit3.spm; if empty the tokenizer of `init`, or else one
      that is learnt from the captions.
    max_length: tokens of a text, start and end included.
    patch_size: height and width of a patch.
    width: channels of a token.
    num_layers: blocks.
    num_heads: of the attention.
    mlp_width: channels between an expert's dense layers.
    vocab_size: tokens of the text tokenizer, at least.
    shared_attention: the paper's network; else the released one.
    pair_layers: top blocks with an expert for pairs, which is idle here.
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
    batch_size: over all devices; every pair is told from all others of it, so
      that it cannot be worked through in parts.
    seed: of initialisation, data order and views.
    steps: run: number of updates.
    dtype: run: of the network's computation.
    remat: run: recompute activations in the backward pass to save memory.
    fsdp: run: devices that share one copy of the parameters.
    workdir: run: where checkpoints go; runs/beit3-retrieval-NAME by default.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
    smoke: run: shrink to a few steps of a tiny network, to see it run.
  """

  name: str = "coco_base"
  dataset: str = "coco_captions"
  split: str = "train+restval"
  test_split: str = "test"
  init: str = ""
  init_size: int = 224
  image_size: int = 384
  crop_area: float = 0.5
  flip: bool = True
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
  drop_path: float = 0.2
  lr: float = 2e-4
  min_lr: float = 1e-6
  warmup: int = 552
  decay_steps: int = 2760
  layer_decay: float = 0.65
  weight_decay: float = 0.05
  b2: float = 0.999
  batch_size: int = 3072
  seed: int = 0
  steps: int = 2760
  dtype: str = "float32"
  remat: bool = False
  fsdp: int = 1
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
    check_trunk(self)


# The Karpathy splits' images have five captions each.
_COCO_PAIRS, _FLICKR_PAIRS = 5 * 113_287, 5 * 29_000


def _retrieval(name: str, pairs: int, **changes: Any) -> Retrieval:
  task, _, size = name.partition("_")
  recipe = RECIPES[f"coco_retrieval_{size}" if task == "coco" else name]
  epoch = pairs // recipe.batch_size
  fields = (
    *("lr", "batch_size", "layer_decay", "drop_path", "weight_decay"),
    "image_size",
  )
  return Retrieval(
    name,
    **{field: getattr(recipe, field) for field in fields},
    warmup=recipe.warmup * epoch,
    decay_steps=recipe.epochs * epoch,
    steps=recipe.epochs * epoch,
    **SIZES[size],
    **changes,
  )


_FLICKR: dict[str, Any] = {"dataset": "karpathy:flickr30k", "split": "train"}
RETRIEVALS = {
  "coco_base": _retrieval("coco_base", _COCO_PAIRS),
  "coco_large": _retrieval("coco_large", _COCO_PAIRS),
  "coco_giant": _retrieval("coco_giant", _COCO_PAIRS),
  "flickr30k_base": _retrieval("flickr30k_base", _FLICKR_PAIRS, **_FLICKR),
  "flickr30k_large": _retrieval("flickr30k_large", _FLICKR_PAIRS, **_FLICKR),
  "flickr30k_giant": _retrieval("flickr30k_giant", _FLICKR_PAIRS, **_FLICKR),
  # Small enough for a CPU.
  "openmoji32": Retrieval(
    "openmoji32",
    **SMALL | SHORT,
    crop_area=0.8,
    shared_attention=True,
    pair_layers=1,
    lr=3e-4,  # at 1e-3 all embeddings become one
    layer_decay=0.9,
    save_every=500,
  ),
}
