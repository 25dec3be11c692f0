"""What is measured: sizes that jaxgen and its peer share."""

from typing import NamedTuple

LR, CLIP_NORM, EMA_DECAY = 2e-4, 1.0, 0.9999


class Case(NamedTuple):
  """One comparison.

  Attributes:
    kind: forward, train, ddim, ancestral or inception.
    batch: images at a time.
    steps: of a sampler.
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
  "FID features, 8 images of 299x299": Case("inception", 8, size=299),
}


def quick(case: Case) -> Case:
  """The same case in seconds: numbers without meaning."""
  return case._replace(batch=2, steps=min(case.steps, 5), widths=(32, 64))
