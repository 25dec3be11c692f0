"""What is measured of BEiT-3: networks, sizes, inputs that both sides share."""

import dataclasses
from typing import NamedTuple

import numpy as np

from experiments.beit3.config import PRETRAININGS, Pretrain
from jaxgen.masked import mask_words
from jaxgen.nn.beit3 import BEIT3S, Beit3

NUM_TOKENS = 8192
START, PAD, END = 0, 1, 2
SHORTEST, LONGEST = 8, 20  # words of a text
LR = 1e-4


class Case(NamedTuple):
  """One comparison.

  Attributes:
    kind: "images" or "pairs", the trunk's outputs; or "pretrain", a step of
      AdamW on given visual tokens.
    batch: images, texts and pairs at a time, of each.
    room: words per text that our dense layers have room for; 0: padded.
    trunk: as released; without stochastic depth, whose draws would differ.
    size: height and width of the images.
    length: tokens of a text with its padding.
    dtype: of the computation; parameters are float32.
    peer: what we compare with.
  """

  kind: str
  batch: int
  room: float = 0.0
  trunk: Beit3 = BEIT3S["base"]
  size: int = 224
  length: int = 64
  dtype: str = "float32"
  peer: str = "torchscale"

  @property
  def patches(self) -> int:
    """Patches of an image."""
    return (self.size // self.trunk.patch_size) ** 2


# By mean over a batch texts have (SHORTEST + LONGEST) / 2 = 14 words.
_PACKED = {"room": 14.0}
CPU_CASES = {
  "images, batch 8": Case("images", 8),
  "pairs, batch 8": Case("pairs", 8),
  "pairs, batch 8, packed": Case("pairs", 8, **_PACKED),
  "pre-training step, batch 2": Case("pretrain", 2),
  "pre-training step, batch 2, packed": Case("pretrain", 2, **_PACKED),
}
_BF16 = {"dtype": "bfloat16"}
GPU_CASES = {
  "images, batch 128, bfloat16": Case("images", 128, **_BF16),
  "pairs, batch 128, bfloat16": Case("pairs", 128, **_BF16),
  "pairs, batch 128, bfloat16, packed": Case("pairs", 128, **_PACKED, **_BF16),
  "pre-training step, batch 64, bfloat16": Case("pretrain", 64, **_BF16),
  "pre-training step, batch 64, bfloat16, packed": Case(
    "pretrain", 64, **_PACKED, **_BF16
  ),
}
CASES = CPU_CASES | GPU_CASES


def quick(case: Case) -> Case:
  """The same case in seconds: numbers without meaning."""
  tiny = case.trunk.clone(
    **{"patch_size": 8, "width": 32, "num_layers": 2, "num_heads": 2},
    **{"mlp_width": 64, "vocab_size": 100},
  )
  return case._replace(trunk=tiny, size=32, batch=4, dtype="float32")


def pretraining(case: Case) -> Pretrain:
  """The recipe: no schedule and no decay, which cost nothing."""
  trunk = case.trunk
  fields = ("patch_size", "width", "num_layers", "num_heads", "mlp_width")
  return dataclasses.replace(
    PRETRAININGS["base"],
    **{name: getattr(trunk, name) for name in (*fields, "vocab_size")},
    **{"image_size": case.size, "max_length": case.length, "room": case.room},
    **{"num_masked": round(0.4 * case.patches), "drop_path": 0.0},
    **{"lr": LR, "min_lr": LR, "warmup": 0, "weight_decay": 0.0},
    **{"batch_size": case.batch, "dtype": case.dtype},
  )


def images(case: Case, seed: int = 0) -> np.ndarray:
  """Noise `[batch, size, size, 3]`."""
  shape = (case.batch, case.size, case.size, 3)
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def texts(case: Case, seed: int = 1) -> np.ndarray:
  """Random words between start and end, then padding, int32 `[batch, L]`."""
  rng = np.random.default_rng(seed)
  shape = (case.batch, case.length)
  words = rng.integers(4, case.trunk.vocab_size - 1, shape, np.int32)
  words[:, 0] = START
  lengths = np.linspace(SHORTEST, LONGEST, case.batch).round().astype(int)
  for row, length in zip(words, lengths, strict=True):
    row[length - 1], row[length:] = END, PAD
  return words


def batch_of(case: Case) -> dict[str, np.ndarray]:
  """What a step of pre-training is given, by the recipe's names."""
  rng, config = np.random.default_rng(2), pretraining(case)
  batch: dict[str, np.ndarray] = {}
  for number, kind in enumerate(("image", "pair")):
    shape = (case.batch, case.patches)
    order = rng.random(shape).argsort(1)
    batch[f"{kind}_image"] = images(case, number)
    batch[f"{kind}_mask"] = order < config.num_masked
    batch[f"{kind}_codes"] = rng.integers(0, NUM_TOKENS, shape, np.int32)
  mask_token = case.trunk.vocab_size - 1
  for number, kind in enumerate(("text", "pair")):
    tokens = texts(case, 10 + number)
    share = config.text_share if kind == "text" else config.pair_share
    masked, hidden = mask_words(
      rng, tokens, share, mask_token, PAD, words=(4, mask_token)
    )
    batch[f"{kind}_tokens"], batch[f"{kind}_masked"] = tokens, masked
    batch[f"{kind}_word_mask"] = hidden
  return batch
