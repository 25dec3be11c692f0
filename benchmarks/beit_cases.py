"""What is measured of BEiT: networks, sizes, inputs that both sides share."""

from typing import NamedTuple

import numpy as np

from jaxgen.nn.beit import BEITS, Beit

NUM_CLASSES, NUM_TOKENS = 1000, 8192
MASKED = 0.38  # 75 of 196 patches
LR, WEIGHT_DECAY, CLIP_NORM = 1.5e-3, 0.05, 3.0


class Case(NamedTuple):
  """One comparison.

  Attributes:
    kind: "forward", a classifier's logits; or "pretrain", a step of AdamW on
      given visual tokens.
    batch: images at a time.
    backbone: with LayerScale and relative positions, as released; without
      stochastic depth, whose draws would differ.
    size: height and width of the images.
    dtype: of the computation; parameters are float32.
    peer: "transformers" or "timm".
  """

  kind: str
  batch: int
  backbone: Beit = BEITS["base"]
  size: int = 224
  dtype: str = "float32"
  peer: str = "transformers"

  @property
  def patches(self) -> int:
    """Patches of an image."""
    return (self.size // self.backbone.patch_size) ** 2


_BF16 = {"dtype": "bfloat16"}
CPU_CASES = {
  "BEiT-B forward, batch 8": Case("forward", 8),
  "BEiT-B pre-training step, batch 4": Case("pretrain", 4),
  "BEiT-B forward, batch 8, timm": Case("forward", 8, peer="timm"),
}
GPU_CASES = {
  "BEiT-B forward, batch 128, bfloat16": Case("forward", 128, **_BF16),
  "BEiT-B pre-training step, batch 64, bfloat16": Case("pretrain", 64, **_BF16),
  "BEiT-L forward, batch 128, bfloat16": Case(
    "forward", 128, BEITS["large"], **_BF16
  ),
  "BEiT-L pre-training step, batch 64, bfloat16": Case(
    "pretrain", 64, BEITS["large"], **_BF16
  ),
}
CASES = CPU_CASES | GPU_CASES


def quick(case: Case) -> Case:
  """The same case in seconds: numbers without meaning."""
  tiny = case.backbone.clone(
    patch_size=8, width=32, num_layers=2, num_heads=2, mlp_width=64
  )
  return case._replace(backbone=tiny, size=32, batch=2, dtype="float32")


def images(case: Case) -> np.ndarray:
  """Noise `[batch, size, size, 3]`."""
  shape = (case.batch, case.size, case.size, 3)
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def masks(case: Case) -> np.ndarray:
  """As many masked patches in every image, bool `[batch, patches]`."""
  order = np.random.default_rng(1).random((case.batch, case.patches))
  return order.argsort(1) < num_masked(case)


def num_masked(case: Case) -> int:
  """Masked patches of every image."""
  return round(MASKED * case.patches)


def tokens(case: Case) -> np.ndarray:
  """Random visual tokens, int32 `[batch, patches]`."""
  rng = np.random.default_rng(2)
  shape = (case.batch, case.patches)
  return rng.integers(0, NUM_TOKENS, shape, np.int32)
