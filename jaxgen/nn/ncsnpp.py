"""NCSN++ and DDPM++, the networks of score SDEs (Song et al. 2021, App. H).

One module covers the family: the published configurations are in `NETWORKS`,
among them the authors' form of DDPM's network.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.diffusion.schedules import geometric_sigmas
from jaxgen.nn.embeddings import sinusoidal_embedding
from jaxgen.nn.layers import Conv, dense
from jaxgen.nn.ncsnpp_blocks import (
  AttentionBlock,
  FourierEmbedding,
  Resample,
  ResBlock,
  Taps,
  group_norm,
  residual_sum,
)
from jaxgen.types import Array


class NCSNpp(nn.Module):
  """NCSN++; the defaults are its CIFAR-10 network for the VE SDE.

  Attributes:
    channels: width of the first level.
    channel_mult: width of each level as a multiple of `channels`.
    num_res_blocks: residual blocks per level; one more on the way up.
    attention_resolutions: heights of the feature maps that have attention:
      after every block on the way down, after the level on the way up.
    dropout: rate inside the residual blocks.
    embedding: "fourier" embeds log(sigma), "positional" embeds a label.
    fourier_scale: standard deviation of the Fourier frequencies.
    conditional: whether the blocks see the embedding.
    resblock: "biggan" or "ddpm".
    resample_with_conv: whether DDPM's blocks are resampled by a convolution.
    fir_kernel: taps of the filter used where maps are resampled; None is
      plain resampling.
    skip_rescale: divide every residual sum by sqrt(2).
    progressive: "none"; "output_skip", the output is a sum over the levels;
      "residual", a second path runs up the levels.
    progressive_input: "none"; "input_skip", the downsampled input enters each
      level; "residual", it is convolved and added.
    progressive_combine: "sum" or "cat", for "input_skip".
    init_scale: of the layers that start near zero.
    centered: x lies in [-1, 1]. If not, it lies in [0, 1] and is mapped there.
    scale_by_sigma: divide the output by sigma, so that it is the score.
    sigma_min: the smallest of the noise levels.
    sigma_max: the largest.
    num_scales: their number. Labels count them from the largest, 0; they are
      used only with a positional embedding and `scale_by_sigma`.
    num_classes: EDM's class labels; 0 for none. The one-hot vector times
      sqrt(num_classes), through the linear layer "temb_label" (kernel
      [num_classes, E] and bias), is added to the noise embedding [B, E]:
      E = `channels`, or twice that if it is "fourier".
    augment_dim: size of EDM's augmentation labels; 0 for none. They are added
      through "temb_augment" (kernel [augment_dim, E], no bias).
    dtype: of the computation. Parameters, normalisation statistics, softmax
      and the output are float32.
    remat: recompute each block's activations in the backward pass.
  """

  channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 2, 2)
  num_res_blocks: int = 4
  attention_resolutions: tuple[int, ...] = (16,)
  dropout: float = 0.1
  embedding: str = "fourier"
  fourier_scale: float = 16.0
  conditional: bool = True
  resblock: str = "biggan"
  resample_with_conv: bool = True
  fir_kernel: Taps | None = (1, 3, 3, 1)
  skip_rescale: bool = True
  progressive: str = "none"
  progressive_input: str = "residual"
  progressive_combine: str = "sum"
  init_scale: float = 0.0
  centered: bool = False
  scale_by_sigma: bool = True
  sigma_min: float = 0.01
  sigma_max: float = 50.0
  num_scales: int = 1000
  num_classes: int = 0
  augment_dim: int = 0
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    x: Array,
    time_cond: Array,
    deterministic: bool = True,
    labels: Array | None = None,
    augment: Array | None = None,
  ) -> Array:
    """The network's output for x at the noise level `time_cond`.

    Args:
      x: `[B, H, W, C]`, in [0, 1] plus noise, or in [-1, 1] if `centered`.
      time_cond: `[B]` or `[]`. With the Fourier embedding sigma itself (its
        logarithm is taken here). With the positional one a label: t (N - 1) of
        a discrete VP SDE, 999 t of continuous VP and sub-VP SDEs, t in [0, 1];
        of a discrete VE SDE the index of sigma, 0 being the largest.
      deterministic: no dropout; if False, an rng named 'dropout' is needed.
      labels: classes `[B]`, if there are any.
      augment: what was done to the images, `[B, augment_dim]`; None is zeros,
        nothing.

    Returns:
      `[B, H, W, C]`, float32: the score for the VE networks, which divide by
      sigma; -std times the score, the noise, for VP and sub-VP.

    Raises:
      ValueError: if an option is unknown, the height or width does not
        divide, an attention resolution does not occur, or labels are missing
        or not known.
    """
    self._check(x, time_cond)
    self._check_labels(labels, augment)
    time_cond = jnp.broadcast_to(time_cond, x.shape[:1])
    temb = self._embed(time_cond, labels, augment)
    attention = nn.remat(AttentionBlock) if self.remat else AttentionBlock

    def block(h, level, name, resampling="none"):
      features = self.channels * self.channel_mult[level]
      return self._block(features, name, resampling)(h, temb, deterministic)

    def attend(h, name, always=False):
      if not always and h.shape[1] not in self.attention_resolutions:
        return h
      return attention(
        self.skip_rescale, self.init_scale, self.dtype, name=name
      )(h)

    def resized(h, level, direction, name):
      if self.resblock == "biggan":
        return block(h, level, name, direction)
      features = h.shape[-1] if self.resample_with_conv else None
      return self._resample(direction == "up", features, name)(h)

    levels = range(len(self.channel_mult))
    x = x if self.centered else 2 * x - 1
    channels = x.shape[-1]
    pyramid = x
    h = Conv(self.channels, dtype=self.dtype, name="conv_in")(x)
    skips = [h]
    for i in levels:
      for j in range(self.num_res_blocks):
        h = block(h, i, f"down_{i}_block_{j}")
        h = attend(h, f"down_{i}_attn_{j}")
        skips.append(h)
      if i != levels[-1]:
        h = resized(h, i, "down", f"down_{i}_downsample")
        h, pyramid = self._feed_input(h, pyramid, f"down_{i}_input")
        skips.append(h)

    h = self._block(h.shape[-1], "mid_block_1")(h, temb, deterministic)
    h = attend(h, "mid_attn_1", always=True)
    h = self._block(h.shape[-1], "mid_block_2")(h, temb, deterministic)

    output: Array | None = None
    for i in reversed(levels):
      for j in range(self.num_res_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(h, i, f"up_{i}_block_{j}")
      h = attend(h, f"up_{i}_attn")
      h, output = self._grow_output(h, output, channels, f"up_{i}_output")
      if i != 0:
        h = resized(h, i, "up", f"up_{i}_upsample")

    if output is None or self.progressive == "residual":
      output = self._normed_conv(h, channels, self.init_scale)
    output = output.astype(jnp.float32)
    if self.scale_by_sigma:
      output = output / self._sigma(time_cond)[:, None, None, None]
    return output

  def _embed(
    self, time_cond: Array, labels: Array | None, augment: Array | None
  ) -> Array | None:
    """The embedding `[B, 4 channels]` that the blocks see."""
    if not self.conditional:
      return None
    if self.embedding == "fourier":
      temb = FourierEmbedding(
        self.channels, self.fourier_scale, name="fourier"
      )(time_cond)
    else:
      temb = sinusoidal_embedding(time_cond, self.channels)
    if self.num_classes:
      told = nn.one_hot(labels, self.num_classes) * math.sqrt(self.num_classes)
      temb = temb + dense(temb.shape[-1], "temb_label")(told)
    if self.augment_dim:
      if augment is None:
        augment = jnp.zeros((len(temb), self.augment_dim))
      told = dense(temb.shape[-1], "temb_augment", use_bias=False)(augment)
      temb = temb + told
    temb = dense(4 * self.channels, "temb_dense0", dtype=self.dtype)(temb)
    temb = nn.swish(temb)
    return dense(4 * self.channels, "temb_dense1", dtype=self.dtype)(temb)

  def _sigma(self, time_cond: Array) -> Array:
    if self.embedding == "fourier":
      return time_cond.astype(jnp.float32)
    sigmas = geometric_sigmas(self.num_scales, self.sigma_max, self.sigma_min)
    return jnp.asarray(sigmas, jnp.float32)[time_cond.astype(jnp.int32)]

  def _block(
    self, features: int, name: str, resampling: str = "none"
  ) -> ResBlock:
    module = nn.remat(ResBlock, static_argnums=3) if self.remat else ResBlock
    return module(
      features,
      self.resblock == "biggan",
      resampling,
      self.fir_kernel,
      self.dropout,
      self.skip_rescale,
      self.init_scale,
      self.dtype,
      name=name,
    )

  def _resample(self, up: bool, features: int | None, name: str) -> Resample:
    return Resample(up, features, self.fir_kernel, self.dtype, name=name)

  def _normed_conv(
    self, h: Array, features: int, init_scale: float, prefix: str = ""
  ) -> Array:
    y = nn.swish(group_norm(h, f"{prefix}norm_out", self.dtype))
    return Conv(
      features,
      init_scale=init_scale,
      dtype=self.dtype,
      name=f"{prefix}conv_out",
    )(y)

  def _feed_input(
    self, h: Array, pyramid: Array, name: str
  ) -> tuple[Array, Array]:
    """Lets the input, halved once more, enter h: progressive_input."""
    if self.progressive_input == "input_skip":
      pyramid = self._resample(False, None, name)(pyramid)
      y = dense(h.shape[-1], f"{name}_combine", dtype=self.dtype)(pyramid)
      if self.progressive_combine == "cat":
        return jnp.concatenate([y, h], axis=-1), pyramid
      return y + h, pyramid
    if self.progressive_input == "residual":
      pyramid = self._resample(False, h.shape[-1], name)(pyramid)
      h = residual_sum(pyramid, h, self.skip_rescale)
      return h, h
    return h, pyramid

  def _grow_output(
    self, h: Array, output: Array | None, channels: int, name: str
  ) -> tuple[Array, Array | None]:
    """Adds h to the output so far, doubled: progressive."""
    if self.progressive == "output_skip":
      y = self._normed_conv(h, channels, self.init_scale, f"{name}_")
      y = y.astype(jnp.float32)
      if output is not None:
        y = y + self._resample(True, None, name)(output)
      return h, y
    if self.progressive == "residual":
      if output is None:
        return h, self._normed_conv(h, h.shape[-1], 1.0, f"{name}_")
      output = self._resample(True, h.shape[-1], name)(output)
      h = residual_sum(output, h, self.skip_rescale)
      return h, h
    return h, None

  def _check_labels(self, labels: Array | None, augment: Array | None) -> None:
    """Raises where there are labels that the network does not know."""
    if (labels is not None) != (self.num_classes > 0):
      found = "none" if labels is None else "some"
      raise ValueError(
        f"NCSNpp of {self.num_classes} classes got {found} as labels."
      )
    if augment is not None and augment.shape[-1] != self.augment_dim:
      raise ValueError(
        f"NCSNpp needs {self.augment_dim} augmentation labels, got "
        f"{augment.shape[-1]}."
      )

  def _check(self, x: Array, time_cond: Array) -> None:
    """Raises where an option, x or time_cond does not fit."""
    for name, known in _CHOICES.items():
      if getattr(self, name) not in known:
        raise ValueError(
          f"NCSNpp's {name} is one of {', '.join(known)}, got "
          f"{getattr(self, name)!r}."
        )
    if x.ndim != 4:
      raise ValueError(f"NCSNpp needs x of shape [B, H, W, C], got {x.shape}.")
    if jnp.shape(time_cond) not in ((), x.shape[:1]):
      raise ValueError(
        f"NCSNpp needs time_cond of shape {x.shape[:1]} or (), got "
        f"{jnp.shape(time_cond)}."
      )
    levels = range(len(self.channel_mult))
    if x.shape[1] % 2 ** levels[-1] or x.shape[2] % 2 ** levels[-1]:
      raise ValueError(
        f"NCSNpp with {len(levels)} levels needs height and width divisible "
        f"by {2 ** levels[-1]}, got {x.shape[1]} x {x.shape[2]}."
      )
    heights = [x.shape[1] // 2**i for i in levels]
    if not set(self.attention_resolutions) <= set(heights):
      raise ValueError(
        f"NCSNpp has feature maps of heights {heights}, so attention at "
        f"{self.attention_resolutions} does not exist."
      )


_CHOICES = {
  "embedding": ("fourier", "positional"),
  "resblock": ("biggan", "ddpm"),
  "progressive": ("none", "output_skip", "residual"),
  "progressive_input": ("none", "input_skip", "residual"),
  "progressive_combine": ("sum", "cat"),
}

_VE = NCSNpp()
_VP = NCSNpp(embedding="positional", centered=True, scale_by_sigma=False)
_DDPMPP = _VP.clone(fir_kernel=None, progressive_input="none")
_DDPM = _DDPMPP.clone(num_res_blocks=2, resblock="ddpm", skip_rescale=False)
_DDPM_256 = _DDPM.clone(
  channel_mult=(1, 1, 2, 2, 4, 4), dropout=0.0, sigma_max=378.0
)
_VE_256 = NCSNpp(
  channel_mult=(1, 1, 2, 2, 2, 2, 2),
  num_res_blocks=2,
  dropout=0.0,
  progressive="output_skip",
  progressive_input="input_skip",
  sigma_max=378.0,
  num_scales=2000,
)
_VE_1024 = _VE_256.clone(
  channels=16,
  channel_mult=(1, 2, 4, 8, 16, 32, 32, 32),
  num_res_blocks=1,
  sigma_max=1348.0,
)

# The published networks by the folder of their checkpoints, otherwise by their
# configuration; those of the VP SDE also serve the sub-VP SDE. The ones named
# "ddpm" are DDPM's, except that their way up has attention once per level.
NETWORKS = {
  "ve/cifar10_ddpm": _DDPM.clone(centered=False, scale_by_sigma=True),
  "ve/cifar10_ncsnpp": _VE.clone(embedding="positional"),
  "ve/cifar10_ncsnpp_continuous": _VE,
  "ve/cifar10_ncsnpp_deep_continuous": _VE.clone(num_res_blocks=8),
  "ve/celeba_ncsnpp": _VE.clone(embedding="positional", sigma_max=90.0),
  "ve/bedroom_ncsnpp_continuous": _VE_256,
  "ve/church_ncsnpp_continuous": _VE_256.clone(sigma_max=380.0),
  "ve/celebahq_256_ncsnpp_continuous": _VE_256.clone(sigma_max=348.0),
  "ve/ffhq_256_ncsnpp_continuous": _VE_256.clone(sigma_max=348.0),
  "ve/celebahq_ncsnpp_continuous": _VE_1024,
  "ve/ffhq_1024_ncsnpp_continuous": _VE_1024,
  "vp/cifar10_ddpm": _DDPM,
  "vp/cifar10_ddpm_continuous": _DDPM,
  "vp/cifar10_ddpm_unconditional": _DDPM.clone(conditional=False),
  "vp/cifar10_ddpmpp": _DDPMPP,
  "vp/cifar10_ddpmpp_continuous": _DDPMPP,
  "vp/cifar10_ddpmpp_deep_continuous": _DDPMPP.clone(num_res_blocks=8),
  "vp/cifar10_ncsnpp": _VP,
  "vp/cifar10_ncsnpp_continuous": _VP,
  "vp/cifar10_ncsnpp_deep_continuous": _VP.clone(num_res_blocks=8),
  "vp/bedroom_ddpm": _DDPM_256,
  "vp/celebahq_ddpm": _DDPM_256,
  "vp/church_ddpm": _DDPM_256,
}
NETWORKS |= {
  name.replace("vp/", "subvp/"): NETWORKS[name]
  for name in (
    "vp/cifar10_ddpm_continuous",
    "vp/cifar10_ddpmpp_continuous",
    "vp/cifar10_ddpmpp_deep_continuous",
    "vp/cifar10_ncsnpp_continuous",
    "vp/cifar10_ncsnpp_deep_continuous",
  )
}
