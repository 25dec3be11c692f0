"""BEiT v2's tokenizer: vector-quantised knowledge distillation, VQ-KD.

Peng et al. 2022, "BEiT v2: Masked Image Modeling with Vector-Quantized Visual
Tokenizers". An encoder makes a code of every patch; a decoder tells from the
codes what a teacher, CLIP or DINO, sees in the patches. Only the encoder and
the codebook are needed afterwards.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nn import norm_ema
from jaxgen.nn.beit import BEITS, Beit
from jaxgen.nn.layers import Dense
from jaxgen.nn.norm_ema import Codebook
from jaxgen.nn.quantizers import Quantized
from jaxgen.nn.vit import layer_norm, small_normal
from jaxgen.types import Array, Key

# Mean and deviation of the colours, in [0, 1], that teachers expect.
Colours = tuple[tuple[float, float, float], tuple[float, float, float]]
CLIP_COLOURS: Colours = (
  (0.48145466, 0.4578275, 0.40821073),
  (0.26862954, 0.26130258, 0.27577711),
)
IMAGENET_COLOURS: Colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class PatchFeatures(nn.Module):
  """A plain vision transformer, and two dense layers on each patch.

  fc2(tanh(fc1(LN(patch)))); the dense layers are float32.

  Attributes:
    backbone: the transformer, without a mask token.
    features: channels of the output.
  """

  backbone: Beit
  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Images, or maps, `[B, H, W, C]` -> `[B, N, features]`."""
    h = self.backbone(x)[-1][:, 1:]
    h = layer_norm("fc_norm", self.backbone.dtype)(h).astype(jnp.float32)
    dense = lambda features, name: Dense(
      features, kernel_init=small_normal(), name=name
    )
    h = jnp.tanh(dense(self.backbone.width, "task_in")(h))
    return dense(self.features, "task_out")(h)


class Distilled(NamedTuple):
  """What the tokenizer makes of images.

  Attributes:
    features: `[B, N, T]`, what the teacher should see in the patches.
    quantized: the codes `[B, h, w, D]`, their indices `[B, h, w]`, and the
      quantizer's loss.
    codebook: for the next batch.
  """

  features: Array
  quantized: Quantized
  codebook: Codebook


class VQKD(nn.Module):
  """Encoder, quantizer and decoder; `VQKDS` has the released sizes.

  The codebook is no parameter, as nothing is differentiated by it: it is given,
  and what becomes of it is returned.

  Attributes:
    encoder: images to D numbers a patch.
    decoder: of patch size 1, D numbers a patch to the T of the teacher.
    decay: of the codebook's averages.
    restart: threshold of `norm_ema.restarted`; 0 for none, as published.
  """

  encoder: PatchFeatures
  decoder: PatchFeatures
  decay: float = 0.99
  restart: float = 0.0

  def __call__(
    self,
    x: Array,
    codebook: Codebook,
    train: bool = False,
    key: Key | None = None,
    axis_name: str | None = None,
  ) -> Distilled:
    """Tokenizes images and predicts the teacher's features.

    Args:
      x: images `[B, H, W, C]` in [-1, 1].
      codebook: of codes of D channels.
      train: move the codes, after they were looked up. Else only usage is
        counted.
      key: in training, places codes that were never placed by k-means on the
        batch, before they are looked up; also for restarts. Without one, the
        codebook must have been started.
      axis_name: of the devices of a `pmap`; see `norm_ema.updated`.

    Raises:
      ValueError: if images or codebook do not fit, or training that needs a
        key has none.
    """
    z = self.encode(x)
    if train and key is not None:
      codebook = norm_ema.started(key, codebook, z)
    quantized = norm_ema.quantize(z, codebook)
    features, indices = self.decode(quantized.z_q), quantized.indices
    if not train:
      codebook = norm_ema.counted(codebook, indices, self.decay, axis_name)
      return Distilled(features, quantized, codebook)
    codebook = norm_ema.updated(codebook, z, indices, self.decay, axis_name)
    if self.restart:
      if key is None:
        raise ValueError("VQKD with restart needs a key in training, got None.")
      codebook = norm_ema.restarted(key, codebook, z, self.restart)
    return Distilled(features, quantized, codebook)

  def encode(self, x: Array) -> Array:
    """What is quantised of images `[B, H, W, C]`: `[B, h, w, D]`."""
    z = self.encoder(x)
    p = self.encoder.backbone.patch_size
    return z.reshape(len(x), x.shape[1] // p, x.shape[2] // p, -1)

  def tokens(self, x: Array, codebook: Codebook) -> Array:
    """The visual tokens of images `[B, H, W, C]`: integers `[B, N]`."""
    indices = norm_ema.quantize(self.encode(x), codebook).indices
    return indices.reshape(len(x), -1)

  def decode(self, z_q: Array) -> Array:
    """The teacher's features, of codes `[B, h, w, D]`: `[B, N, T]`."""
    return self.decoder(z_q)


def plain_vit(
  width: int, num_layers: int, num_heads: int, mlp_width: int, patch_size: int
) -> Beit:
  """A vision transformer as BEiT v2's tokenizers have it.

  Absolute positions, no relative ones, no LayerScale, no mask token; q and v
  have biases, k has none. Weights begin as in BEiT's pre-training, cut off at
  +- 0.02; the release draws its tokenizers' from the whole normal, and those of
  patches as PyTorch does by default.
  """
  return BEITS["base_plain"].clone(
    patch_size=patch_size,
    width=width,
    num_layers=num_layers,
    num_heads=num_heads,
    mlp_width=mlp_width,
    mask_token=False,
  )


def teacher_images(x: Array, colours: Colours) -> Array:
  """Images in [-1, 1], as a teacher expects them.

  ((x + 1) / 2, cut to [0, 1], less the mean) / deviation, of each colour; grey
  images become colour images. BEiT v2's teachers see the tokenizer's crop.

  Args:
    x: `[B, H, W, 1 or 3]`.
    colours: mean and deviation.
  """
  x = jnp.clip((x + 1) * 127.5, 0, 255) / 255
  mean, std = (jnp.asarray(c)[None, None, None] for c in colours)
  return (x - mean) / std


def _base(decoder_layers: int, target_dim: int) -> VQKD:
  encoder = plain_vit(768, 12, 12, 3072, 16)
  decoder = plain_vit(768, decoder_layers, 12, 3072, 1)
  return VQKD(PatchFeatures(encoder, 32), PatchFeatures(decoder, target_dim))


# The released ones, by the end of their names: blocks of the decoder, its
# width and heads, and the teacher. All have 8192 codes.
VQKDS = {
  "3x768x12_clip": _base(3, 512),
  "1x768x12_clip": _base(1, 512),
  "1x768x12_dino": _base(1, 768),
}
NUM_CODES = 8192
