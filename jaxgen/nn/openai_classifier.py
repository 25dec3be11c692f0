"""ADM's classifier of noisy images.

Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis",
section 4: its gradient guides the sampler of a diffusion model.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nn.openai_blocks import linear, norm, qkv_attention
from jaxgen.nn.openai_unet import HalfUNet
from jaxgen.types import Array


class AttentionPool(nn.Module):
  """CLIP's pooling (Radford et al. 2021): the mean attends to all positions.

  Attributes:
    features: size of the output.
    num_heads: heads of the attention.
  """

  features: int
  num_heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """`[B, H, W, C]` -> `[B, features]`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h * w, c)
    x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
    shape = (h * w + 1, c)
    positions = self.param(
      "positional_embedding", nn.initializers.normal(c**-0.5), shape
    )
    qkv = linear(x + positions[None], 3 * c, "qkv")
    y = qkv_attention(qkv, self.num_heads, new_order=True)[:, 0]
    return linear(y, self.features, "proj_out")


class Classifier(HalfUNet):
  """ADM's classifier: the U-Net's way down, then a pooling of its features.

  Attributes:
    num_classes: size of the output.
    pool: what turns features into logits. "attention" is the published
      networks': an `AttentionPool` of the last feature map; "adaptive" is a
      dense layer of its mean; "spatial" and "spatial_v2" are two dense layers
      of the means of all feature maps.
  """

  channel_mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (32, 16, 8)
  num_head_channels: int | None = 64
  resblock_updown: bool = True
  num_classes: int = 1000
  pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"

  @nn.compact
  def __call__(self, x: Array, t: Array, deterministic: bool = True) -> Array:
    """The logits of p(y | x_t) for x at timestep t.

    Args:
      x: `[B, H, W, C]`; with `pool` "attention", H and W are those of training.
      t: `[B]` or `[]`, from 0 to T - 1, of any integer or floating type.
      deterministic: no dropout; if False, an rng named 'dropout' is needed.

    Returns:
      `[B, num_classes]`, float32.

    Raises:
      ValueError: if the height or width does not divide, an attention
        resolution does not occur, or the pool is unknown.
    """
    self.check(x, t)
    emb = self.embed(t, x.shape[0])
    features = self.way_down(x, emb, deterministic)
    h = self.middle(features[-1], emb, deterministic)
    if self.pool in ("attention", "adaptive"):
      h = nn.swish(norm("norm_out")(h))
      if self.pool == "adaptive":
        return linear(h.mean((1, 2)), self.num_classes, "logits", zero=True)
      num_heads = self.num_heads
      if self.num_head_channels is not None:
        num_heads = h.shape[-1] // self.num_head_channels
      return AttentionPool(self.num_classes, num_heads, name="pool")(h)

    features = [f.astype(jnp.float32).mean((1, 2)) for f in (*features, h)]
    h = linear(jnp.concatenate(features, axis=-1), 2048, "hidden")
    if self.pool == "spatial":
      h = nn.relu(h)
    elif self.pool == "spatial_v2":
      h = nn.swish(norm("norm_hidden")(h))
    else:
      raise ValueError(
        "Classifier's pool is attention, adaptive, spatial or spatial_v2, "
        f"got {self.pool!r}."
      )
    return linear(h, self.num_classes, "logits")


# Dhariwal & Nichol 2021, section 4; options of the released checkpoints.
CLASSIFIERS = {
  "imagenet64": Classifier(channel_mult=(1, 2, 3, 4), num_res_blocks=4),
  "imagenet128": Classifier(channel_mult=(1, 1, 2, 3, 4)),
  "imagenet256": Classifier(),
  "imagenet512": Classifier(channel_mult=(0.5, 1, 1, 2, 2, 4, 4)),
}
