"""The first stages of latent diffusion (Rombach et al. 2022, section 3.1)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn import posteriors
from jaxgen.nn.autoencoder_blocks import Decoder, Encoder
from jaxgen.nn.convolution import conv
from jaxgen.nn.layers import Dense
from jaxgen.nn.openai_blocks import fan_in_uniform
from jaxgen.nn.posteriors import DiagonalGaussian
from jaxgen.nn.quantizers import Quantized, VectorQuantizer
from jaxgen.types import Array, Key, PyTree


class AutoencoderKL(nn.Module):
  """The autoencoder with a Gaussian posterior; by default Stable Diffusion's.

  Diffusion works on c z, z a sample of the posterior and c the model's scale:
  0.18215 in Stable Diffusion, else 1 / std of latents.

  Attributes:
    z_channels: channels of the latent.
    channel_mult: width of each level as a multiple of `channels`. An image is
      f = 2^(levels - 1) times as high and wide as its latent.
    attention_resolutions: heights of the feature maps that have attention, for
      images of `resolution`; with other images the same levels have it.
    resolution: height of the images for which those hold.
    mid_attention: attention at the latent's size, in either half.
    channels: width of the first level.
    num_res_blocks: residual blocks per level; one more in the decoder.
    out_channels: channels of the image.
    dtype: of the computation. Parameters, normalisation statistics, softmax,
      the convolutions next to the latent, and outputs are float32.
    remat: recompute each block's activations in the backward pass.
  """

  z_channels: int = 4
  channel_mult: tuple[int, ...] = (1, 2, 4, 4)
  attention_resolutions: tuple[int, ...] = ()
  resolution: int = 256
  mid_attention: bool = True
  channels: int = 128
  num_res_blocks: int = 2
  out_channels: int = 3
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def setup(self):
    """Encoder, decoder and, next to the latent, 1 x 1 convolutions."""
    self.encoder, self.decoder = _halves(self, 2 * self.z_channels)
    self.quant_conv = _pointwise(2 * self.z_channels)
    self.post_quant_conv = _pointwise(self.z_channels)

  def encode(self, x: Array) -> DiagonalGaussian:
    """The posterior of images x `[B, H, W, C]`, usually in [-1, 1].

    Returns:
      Mean and log variance, `[B, H / f, W / f, z_channels]`.

    Raises:
      ValueError: if f does not divide height and width.
    """
    _check_image(self, x)
    return posteriors.from_moments(self.quant_conv(self.encoder(x)))

  def decode(self, z: Array) -> Array:
    """Images `[B, f h, f w, out_channels]` of latents z `[B, h, w, C]`.

    Raises:
      ValueError: if z has other channels than `z_channels`.
    """
    _check_latent(self, z)
    return self.decoder(self.post_quant_conv(z)).astype(jnp.float32)

  def decode_features(self, z: Array) -> Array:
    """What `last_convolution` makes `decode`'s images of."""
    _check_latent(self, z)
    return self.decoder(self.post_quant_conv(z), features=True)

  def __call__(
    self, x: Array, key: Key | None = None
  ) -> tuple[Array, DiagonalGaussian]:
    """The reconstruction of x, and its posterior.

    Args:
      x: images `[B, H, W, C]`.
      key: of the posterior's sample; without it, its mode is decoded.
    """
    posterior = self.encode(x)
    if key is None:
      return self.decode(posteriors.mode(posterior)), posterior
    return self.decode(posteriors.sample(key, posterior)), posterior


class VQAutoencoder(nn.Module):
  """The autoencoder whose decoder begins with a vector quantizer (VQGAN).

  Diffusion works on the latent before quantisation, without a scale: the
  quantizer counts as part of the decoder.

  Attributes:
    num_codes: entries of the codebook, of z_channels channels.
    z_channels: channels of the latent.
    channel_mult: as in `AutoencoderKL`, like all that follows but the two.
    beta: of the quantizer's loss.
    legacy: which term of it beta weighs; see `VectorQuantizer`.
  """

  num_codes: int = 8192
  z_channels: int = 3
  channel_mult: tuple[int, ...] = (1, 2, 4)
  attention_resolutions: tuple[int, ...] = ()
  resolution: int = 256
  mid_attention: bool = True
  beta: float = 0.25
  legacy: bool = True
  channels: int = 128
  num_res_blocks: int = 2
  out_channels: int = 3
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def setup(self):
    """Encoder, quantizer, decoder, and 1 x 1 convolutions beside the codes."""
    self.encoder, self.decoder = _halves(self, self.z_channels)
    self.quant_conv = _pointwise(self.z_channels)
    self.post_quant_conv = _pointwise(self.z_channels)
    self.quantizer = VectorQuantizer(
      self.num_codes, self.z_channels, self.beta, self.legacy
    )

  def encode(self, x: Array) -> Array:
    """Latents before quantisation, `[B, H / f, W / f, z_channels]`.

    Args:
      x: images `[B, H, W, C]`, usually in [-1, 1].

    Raises:
      ValueError: if f does not divide height and width.
    """
    _check_image(self, x)
    return self.quant_conv(self.encoder(x)).astype(jnp.float32)

  def quantize(self, z: Array) -> Quantized:
    """The codes nearest to latents z `[B, h, w, z_channels]`."""
    _check_latent(self, z)
    return self.quantizer(z)

  def decode(self, z: Array) -> Array:
    """Quantises z, then decodes it: `[B, f h, f w, out_channels]`.

    Args:
      z: latents `[B, h, w, z_channels]`.

    Raises:
      ValueError: if z has other channels than `z_channels`.
    """
    return self.decode_quantized(self.quantize(z).z_q)

  def decode_quantized(self, z_q: Array) -> Array:
    """`decode` without the quantizer."""
    _check_latent(self, z_q)
    return self.decoder(self.post_quant_conv(z_q)).astype(jnp.float32)

  def decode_features(self, z_q: Array) -> Array:
    """What `last_convolution` makes `decode_quantized`'s images of."""
    _check_latent(self, z_q)
    return self.decoder(self.post_quant_conv(z_q), features=True)

  def decode_code(self, indices: Array) -> Array:
    """Images of codes, given by their indices `[B, h, w]`."""
    return self.decode_quantized(self.quantizer.lookup(indices))

  def __call__(self, x: Array) -> tuple[Array, Quantized]:
    """The reconstruction of x `[B, H, W, C]`, and its codes."""
    quantized = self.quantize(self.encode(x))
    return self.decode_quantized(quantized.z_q), quantized


FirstStage = AutoencoderKL | VQAutoencoder


def downsampling_factor(autoencoder: FirstStage) -> int:
  """f, by which an image is higher and wider than its latent."""
  return 2 ** (len(autoencoder.channel_mult) - 1)


def last_convolution(
  params: PyTree, features: Array, kernel: Array | None = None
) -> Array:
  """The decoder's last convolution, applied to `decode_features`.

  The adaptive weight of the adversarial loss is measured at its kernel, for
  which nothing before it should be computed again.

  Args:
    params: of an autoencoder.
    features: `[B, H, W, C]`.
    kernel: in place of the one in `params`, that of `last_kernel`.

  Returns:
    Images `[B, H, W, out_channels]`, float32.
  """
  layer = params["decoder"]["conv_out"]
  kernel = (layer["kernel"] if kernel is None else kernel).astype(
    features.dtype
  )
  y = conv(features, kernel, padding=((1, 1), (1, 1)))
  y += layer["bias"].astype(features.dtype)[None, None, None]
  return y.astype(jnp.float32)


def last_kernel(params: PyTree) -> Array:
  """The kernel of an autoencoder's last convolution, `[3, 3, C, D]`."""
  return params["decoder"]["conv_out"]["kernel"]


def attention_levels(autoencoder: FirstStage) -> tuple[int, ...]:
  """The levels, from 0, that have attention beside their residual blocks.

  Raises:
    ValueError: if an attention resolution does not occur.
  """
  heights = [
    autoencoder.resolution // 2**i for i in range(len(autoencoder.channel_mult))
  ]
  wanted = autoencoder.attention_resolutions
  if not set(wanted) <= set(heights):
    raise ValueError(
      f"{type(autoencoder).__name__} has feature maps of heights {heights} at "
      f"resolution {autoencoder.resolution}, so attention at {wanted} does not "
      "exist."
    )
  return tuple(i for i, height in enumerate(heights) if height in wanted)


def _halves(autoencoder: FirstStage, features: int) -> tuple[Encoder, Decoder]:
  """The encoder, to so many features, and the decoder."""
  shared: dict[str, Any] = {
    "channels": autoencoder.channels,
    "channel_mult": autoencoder.channel_mult,
    "num_res_blocks": autoencoder.num_res_blocks,
    "attention_levels": attention_levels(autoencoder),
    "mid_attention": autoencoder.mid_attention,
    "dtype": autoencoder.dtype,
    "remat": autoencoder.remat,
  }
  return Encoder(features, **shared), Decoder(
    autoencoder.out_channels, **shared
  )


def _pointwise(channels: int) -> Dense:
  """A 1 x 1 convolution that keeps the number of channels, in float32."""
  init = fan_in_uniform(channels)
  return Dense(channels, dtype=jnp.float32, kernel_init=init, bias_init=init)


def _check_image(autoencoder: FirstStage, x: Array) -> None:
  name, f = type(autoencoder).__name__, downsampling_factor(autoencoder)
  if x.ndim != 4:
    raise ValueError(f"{name} needs x of shape [B, H, W, C], got {x.shape}.")
  if x.shape[1] % f or x.shape[2] % f:
    raise ValueError(
      f"{name} with {len(autoencoder.channel_mult)} levels needs height and "
      f"width divisible by {f}, got {x.shape[1]} x {x.shape[2]}."
    )


def _check_latent(autoencoder: FirstStage, z: Array) -> None:
  if z.ndim != 4 or z.shape[-1] != autoencoder.z_channels:
    raise ValueError(
      f"{type(autoencoder).__name__} needs z of shape [B, h, w, "
      f"{autoencoder.z_channels}], got {z.shape}."
    )


_VQ_F8 = VQAutoencoder(16384, 4, (1, 2, 2, 4), attention_resolutions=(32,))

# The published first stages of factor f, by the names of their release. The
# paper's Table 8 has more, of f = 2 and 32 among them, whose configurations
# were not published.
KL_AUTOENCODERS = {
  "kl-f4": AutoencoderKL(3, (1, 2, 4)),
  "kl-f8": AutoencoderKL(),
  "kl-f16": AutoencoderKL(16, (1, 1, 2, 2, 4), attention_resolutions=(16,)),
  "kl-f32": AutoencoderKL(
    64, (1, 1, 2, 2, 4, 4), attention_resolutions=(16, 8)
  ),
}
VQ_AUTOENCODERS = {
  "vq-f4": VQAutoencoder(),
  "vq-f4-noattn": VQAutoencoder(mid_attention=False),
  "vq-f8": _VQ_F8,
  "vq-f8-n256": _VQ_F8.clone(num_codes=256),
  "vq-f16": VQAutoencoder(
    16384, 8, (1, 1, 2, 2, 4), attention_resolutions=(16,)
  ),
}
