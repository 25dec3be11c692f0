"""What is measured: sizes, images and weights that both sides share."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

LR, CLIP_NORM, EMA_DECAY = 2e-4, 1.0, 0.9999


class Case(NamedTuple):
  """One comparison.

  Attributes:
    kind: forward, train, ddim, ancestral, bound or inception.
    batch: images at a time.
    steps: of a sampler; of "bound", the variational bound, its terms T.
    trivial: sample with the network eps = x / 10 in place of the U-Net, which
      leaves the cost of the loop.
    size: height and width of the images.
    channels: of the images.
    widths: channels of the U-Net's levels, attention at 16 x 16.
    dropout: rate in training.
  """

  kind: str
  batch: int
  steps: int = 0
  trivial: bool = False
  size: int = 32
  channels: int = 3
  widths: tuple[int, ...] = (128, 256, 256, 256)
  dropout: float = 0.1


CASES = {
  "UNet forward, batch 8": Case("forward", 8),
  "UNet forward, batch 32": Case("forward", 32),
  "training step, batch 16": Case("train", 16),
  "50-step DDIM, 8 images": Case("ddim", 8, 50),
  "1000 DDPM steps, trivial network, one 28x28x1 image": Case(
    "ancestral", 1, 1000, trivial=True, size=28, channels=1
  ),
  "1000 DDPM steps, trivial network, 8 images": Case(
    "ancestral", 8, 1000, trivial=True
  ),
  "1000 DDIM steps, trivial network, 8 images": Case(
    "ddim", 8, 1000, trivial=True
  ),
  "50 terms of the bound, 8 images": Case("bound", 8, 50),
  "1000 terms of the bound, trivial network, 8 images": Case(
    "bound", 8, 1000, trivial=True
  ),
  "FID features, 8 images of 299x299": Case("inception", 8, size=299),
}


def images(case: Case) -> np.ndarray:
  """What both sides start from: noise, or 8-bit images for the bound."""
  shape = (case.batch, case.size, case.size, case.channels)
  x = np.random.default_rng(0).standard_normal(shape, np.float32)
  if case.kind != "bound":
    return x
  levels = np.clip(np.rint(60 * x + 127.5), 0, 255)
  return levels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Random tensors by diffusers' names, the same on both sides.

  Of about the variance that keeps a layer's output at its input's.
  """
  rng = np.random.default_rng(1)
  state = {}
  for name in sorted(shapes):
    shape = shapes[name]
    noise = rng.standard_normal(shape, np.float32)
    if len(shape) > 1:
      state[name] = noise / np.float32(math.sqrt(math.prod(shape[1:])))
    else:
      scale = "norm" in name and name.endswith("weight")
      state[name] = np.float32(0.1) * noise + np.float32(scale)
  return state


def quick(case: Case) -> Case:
  """The same case in seconds: numbers without meaning."""
  most = 25 if case.kind == "bound" else 5  # with fewer terms betas exceed 1
  return case._replace(batch=2, steps=min(case.steps, most), widths=(32, 64))
