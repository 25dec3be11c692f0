"""The U-Net of latent diffusion and Stable Diffusion 1.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models", section 3.3 and Tables 12 to 15.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nn.openai_blocks import Conv, embed, norm
from jaxgen.nn.openai_unet import HalfUNet
from jaxgen.nn.spatial_transformer import SpatialTransformer
from jaxgen.types import Array


class UNet(HalfUNet):
  """ADM's U-Net, which can see a context; the defaults are those of SD1.

  A condition enters as a context of tokens, as channels appended to x, as
  both, or as a label.

  Attributes:
    attention_resolutions: the rates, height of x over height of the feature
      map, at which there is attention. So the published configurations have
      it, and x can be of any size that divides.
    context_dim: size of the context's tokens. If None there is no context, and
      self-attention in place of transformers.
    transformer_depth: blocks of each transformer.
    query_chunk: of the transformers; see `spatial_transformer.attention`.
    flash: of the transformers; see `spatial_transformer.attention`.
    concat_channels: of a condition that is appended to x.
    num_classes: labels, if they are added to the embedding of t.
    out_channels: those of x.
  """

  channels: int = 320
  channel_mult: tuple[float, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (1, 2, 4)
  num_heads: int = 8
  scale_shift_norm: bool = False
  context_dim: int | None = 768
  transformer_depth: int = 1
  query_chunk: int | None = None
  flash: bool = False
  concat_channels: int = 0
  num_classes: int | None = None
  out_channels: int = 4

  @nn.compact
  def __call__(
    self,
    x: Array,
    t: Array,
    context: Array | None = None,
    concat: Array | None = None,
    y: Array | None = None,
    deterministic: bool = True,
  ) -> Array:
    """The network's output for x at timestep t.

    Args:
      x: latents `[B, H, W, C]`.
      t: `[B]` or `[]`, from 0 to T - 1 = 999. Of any integer or floating type.
      context: tokens `[B, S, context_dim]` of any number S, needed if and only
        if there is a `context_dim`.
      concat: `[B, H, W, concat_channels]`, needed if and only if there are
        such channels.
      y: labels `[B]` or `[]`, needed if and only if there are `num_classes`.
      deterministic: no dropout; if False, an rng named 'dropout' is needed.

    Returns:
      `[B, H, W, out_channels]`, float32.

    Raises:
      ValueError: if the height or width does not divide, an attention rate
        does not occur, or a condition is missing, superfluous or of another
        shape.
    """
    self.check(x, t)
    self._check_conditions(x, context, concat, y)
    emb = self.embed(t, x.shape[0])
    if self.num_classes is not None and y is not None:
      y = jnp.broadcast_to(y, x.shape[:1])
      emb = emb + embed(y, self.num_classes, emb.shape[-1], "label_emb")
    if concat is not None:
      x = jnp.concatenate([x, concat], axis=-1)
    features = self.way_down(x, emb, deterministic, context)
    h = self.way_up(features, emb, deterministic, self.num_heads, context)
    h = nn.swish(norm("norm_out")(h))
    return Conv(self.out_channels, zero=True, name="conv_out")(h)

  def has_attention(self, level: int, height: int) -> bool:
    """Whether a level's feature maps have attention."""
    return 2**level in self.attention_resolutions

  def attention(
    self, h: Array, num_heads: int, name: str, context: Array | None = None
  ) -> Array:
    """A transformer that sees the context; without one, an attention block."""
    if context is None:
      return super().attention(h, num_heads, name)
    module = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
    num_heads = self.heads(h.shape[-1], num_heads, name)
    options = (self.transformer_depth, self.query_chunk, self.flash, self.dtype)
    return module(num_heads, *options, name=name)(h, context)

  def check_attention(self, height: int) -> None:
    """Raises where no level is of a rate that is to have attention."""
    rates = [2**i for i in range(len(self.channel_mult))]
    if not set(self.attention_resolutions) <= set(rates):
      raise ValueError(
        f"UNet has feature maps at rates {rates}, so attention at "
        f"{self.attention_resolutions} does not exist."
      )

  def _check_conditions(
    self,
    x: Array,
    context: Array | None,
    concat: Array | None,
    y: Array | None,
  ) -> None:
    b = x.shape[0]
    if self.context_dim is None and context is not None:
      raise ValueError("UNet with context_dim None needs no context.")
    if self.context_dim is not None and (
      context is None
      or context.ndim != 3
      or context.shape[::2] != (b, self.context_dim)
    ):
      raise ValueError(
        f"UNet needs context of shape ({b}, S, {self.context_dim}), got "
        f"{None if context is None else context.shape}."
      )
    if self.concat_channels == 0 and concat is not None:
      raise ValueError("UNet with concat_channels 0 needs no concat.")
    wanted = (*x.shape[:3], self.concat_channels)
    if self.concat_channels and (concat is None or concat.shape != wanted):
      raise ValueError(
        f"UNet needs concat of shape {wanted}, got "
        f"{None if concat is None else concat.shape}."
      )
    if (y is None) != (self.num_classes is None):
      raise ValueError(
        f"UNet with num_classes {self.num_classes} needs "
        f"{'labels y' if y is None else 'no labels y'}."
      )
    if y is not None and jnp.shape(y) not in ((), (b,)):
      raise ValueError(
        f"UNet needs y of shape ({b},) or (), got {jnp.shape(y)}."
      )


_LSUN_BEDS = UNet(
  224,
  (1, 2, 3, 4),
  attention_resolutions=(2, 4, 8),
  num_head_channels=32,
  context_dim=None,
  out_channels=3,
)
_CIN256_V2 = UNet(
  192,
  (1, 2, 3, 5),
  attention_resolutions=(2, 4, 8),
  num_heads=1,
  context_dim=512,
  out_channels=3,
)
_SEMANTIC = UNet(
  128,
  (1, 4, 8),
  attention_resolutions=(),
  context_dim=None,
  concat_channels=3,
  out_channels=3,
)
_SD1 = UNet()

# The configurations of CompVis/latent-diffusion (models/ldm, but cin256-v2,
# txt2img-1p4B and retrieval-augmented 768x768 under configs), by their names,
# and of CompVis/stable-diffusion; those of rates that no level has are left
# out. "cin256" is the paper's LDM-8, "cin256_v2" its LDM-4 of ImageNet. What
# they expect as `concat`: bsr_sr the small image, the semantic ones a rescaled
# map, inpainting_big the masked image's latents and the mask, sd1_inpainting
# the mask and the masked image's latents.
LDM_NETWORKS = {
  "celeba256": _LSUN_BEDS,
  "ffhq256": _LSUN_BEDS,
  "lsun_beds256": _LSUN_BEDS,
  "lsun_churches256": UNet(
    192,
    (1, 2, 2, 4, 4),
    attention_resolutions=(1, 2, 4, 8),
    scale_shift_norm=True,
    resblock_updown=True,
    context_dim=None,
  ),
  "cin256": UNet(256, (1, 2, 4), num_head_channels=32, context_dim=512),
  "cin256_v2": _CIN256_V2,
  "text2img256": _CIN256_V2.clone(num_head_channels=32, context_dim=640),
  "txt2img_1p4b": _SD1.clone(context_dim=1280),
  "layout2img_openimages256": _LSUN_BEDS.clone(
    channels=128, context_dim=512, transformer_depth=3
  ),
  "bsr_sr": _LSUN_BEDS.clone(
    channels=160,
    channel_mult=(1, 2, 2, 4),
    attention_resolutions=(8,),
    concat_channels=3,
  ),
  "semantic_synthesis256": _SEMANTIC,
  "semantic_synthesis512": _SEMANTIC,
  "inpainting_big": _LSUN_BEDS.clone(
    channels=256,
    num_head_channels=None,
    resblock_updown=True,
    concat_channels=4,
  ),
  "rdm768": UNet(448, (1, 2, 3, 4), num_head_channels=32, out_channels=16),
  "sd1": _SD1,
  "sd1_inpainting": _SD1.clone(concat_channels=5),
}
