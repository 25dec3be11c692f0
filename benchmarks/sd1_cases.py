"""What is measured of Stable Diffusion 1: networks, sizes, shared inputs."""

from typing import NamedTuple

import numpy as np

from jaxgen.convert.sd1 import SD1, Networks
from jaxgen.nn.autoencoder import AutoencoderKL
from jaxgen.nn.clip_text import ClipText
from jaxgen.nn.ldm_unet import UNet

SCALE = 7.5

# Stable Diffusion 1 at a fifth of its width and with fewer layers of text.
REDUCED = Networks(
  UNet(64, context_dim=96),
  AutoencoderKL(channels=32),
  ClipText(width=96, num_layers=2, num_heads=2, mlp_width=384),
)
QUICK = Networks(
  UNet(32, (1, 2), 1, attention_resolutions=(1,), num_heads=2, context_dim=32),
  AutoencoderKL(channels=32, channel_mult=(1, 2), num_res_blocks=1),
  ClipText(width=32, num_layers=1, num_heads=2, mlp_width=64),
)


class Case(NamedTuple):
  """One comparison.

  Attributes:
    kind: unet, decode or txt2img.
    networks: the model.
    size: height and width of the images.
    batch: images at a time; guidance doubles the U-Net's batch.
    steps: of DPM-Solver++(2M).
    dtype: of the computation, the first stage's included.
    peer: what we compare with.
  """

  kind: str
  networks: Networks = REDUCED
  size: int = 256
  batch: int = 1
  steps: int = 0
  dtype: str = "float32"
  peer: str = "diffusers"

  @property
  def latent(self) -> tuple[int, ...]:
    """Shape of the latents of one batch."""
    f = 2 ** (len(self.networks.first_stage.channel_mult) - 1)
    return (self.batch, self.size // f, self.size // f, 4)


_FULL = Case("", SD1, 512, 4, dtype="bfloat16")
CPU_CASES = {
  "reduced U-Net forward, batch 2, 256x256": Case("unet"),
  "reduced first stage, decoding 256x256": Case("decode"),
  "reduced txt2img, 20 steps, one 256x256": Case("txt2img", steps=20),
}
GPU_CASES = {
  "U-Net forward, batch 8, 512x512": _FULL._replace(kind="unet"),
  "first stage, decoding 4 of 512x512": _FULL._replace(kind="decode"),
  "txt2img, 20 steps, 4 of 512x512": _FULL._replace(kind="txt2img", steps=20),
}
CASES = CPU_CASES | GPU_CASES


def latents(case: Case) -> np.ndarray:
  """Noise that both sides start from."""
  return np.random.default_rng(0).standard_normal(case.latent, np.float32)


def tokens(case: Case) -> np.ndarray:
  """Random texts, after an empty one for guidance: `[2, batch, 77]`."""
  rng, end = np.random.default_rng(2), case.networks.text_encoder.end_token
  texts = np.full((2, case.batch, 77), end, np.int32)
  texts[:, :, 0] = end - 1
  texts[1, :, 1:21] = rng.integers(0, end - 1, (case.batch, 20))
  return texts


def quick(case: Case) -> Case:
  """The same case in seconds: numbers without meaning."""
  return case._replace(
    networks=QUICK, size=16, batch=1, steps=min(case.steps, 3), dtype="float32"
  )
