"""The networks of NCSN and NCSNv2 (Song & Ermon 2019, App. A; 2020).

NCSN's is conditional: every normalisation has scales and shifts of its own for
each noise level. NCSNv2's does not see the level, its output is divided by
sigma.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.diffusion.schedules import geometric_sigmas
from jaxgen.nn.ncsn_blocks import Conv, InstanceNormPlus, RefineBlock, ResBlock
from jaxgen.types import Array


class NCSN(nn.Module):
  """NCSN's and NCSNv2's network; the defaults are NCSN's for CIFAR-10.

  The first stage keeps the size of the images; of the others all but the last
  two halve it, and those are dilated by 2 and 4 instead.

  Attributes:
    channels: width of the first stage.
    channel_mult: width of each stage as a multiple of `channels`.
    conditional: normalise by noise level (NCSN); otherwise divide the output
      by sigma (NCSNv2).
    sigma_min: the smallest of the noise levels.
    sigma_max: the largest.
    num_scales: their number. Labels count them from the largest, 0.
    centered: x lies in [-1, 1]. If not, it lies in [0, 1] and is mapped there.
    dtype: of the computation. Parameters, normalisation statistics and the
      output are float32.
    remat: recompute each block's activations in the backward pass.
  """

  channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 2, 2)
  conditional: bool = True
  sigma_min: float = 0.01
  sigma_max: float = 1.0
  num_scales: int = 10
  centered: bool = False
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, x: Array, time_cond: Array, deterministic: bool = True
  ) -> Array:
    """The score of x at the noise level `time_cond`.

    Args:
      x: `[B, H, W, C]`, in [0, 1] plus noise, or in [-1, 1] if `centered`.
      time_cond: `[B]` or `[]`, the index of the noise level, 0 the largest.
      deterministic: for the signature of other networks; there is no dropout.

    Returns:
      `[B, H, W, C]`, float32.

    Raises:
      ValueError: if there are fewer than three stages, or the height or width
        does not divide.
    """
    self._check(x, time_cond)
    labels = jnp.broadcast_to(time_cond, x.shape[:1]).astype(jnp.int32)
    num_classes = self.num_scales if self.conditional else None
    res_block = nn.remat(ResBlock) if self.remat else ResBlock
    refine_block = nn.remat(RefineBlock) if self.remat else RefineBlock
    widths = [self.channels * m for m in self.channel_mult]
    last = len(widths) - 1

    h = x if self.centered else 2 * x - 1
    h = Conv(self.channels, dtype=self.dtype, name="begin_conv")(h)
    maps = []
    for i, width in enumerate(widths):
      for j in range(2):
        lead = i > 0 and j == 0
        h = res_block(
          width,
          pool=lead and i < last - 1,
          dilation={last - 1: 2, last: 4}.get(i, 1),
          project=lead,
          num_classes=num_classes,
          dtype=self.dtype,
          name=f"stage_{i}_block_{j}",
        )(h, labels)
      maps.append(h)

    refined: list[Array] = []
    for i in reversed(range(len(widths))):
      block = refine_block(
        widths[max(i - 1, 0)],
        i == 0,
        num_classes,
        self.dtype,
        name=f"refine_{i}",
      )
      refined = [block([maps[i], *refined], labels)]

    norm = InstanceNormPlus(num_classes, self.dtype, name="norm_out")
    h = nn.elu(norm(refined[0], labels))
    h = Conv(x.shape[-1], dtype=self.dtype, name="end_conv")(h)
    h = h.astype(jnp.float32)
    if self.conditional:
      return h
    sigmas = geometric_sigmas(self.num_scales, self.sigma_max, self.sigma_min)
    sigma = jnp.asarray(sigmas, jnp.float32)[labels]
    return h / sigma[:, None, None, None]

  def _check(self, x: Array, time_cond: Array) -> None:
    """Raises where the stages, x or time_cond do not fit."""
    if len(self.channel_mult) < 3:
      raise ValueError(
        f"NCSN needs at least 3 stages, got {len(self.channel_mult)}."
      )
    if x.ndim != 4:
      raise ValueError(f"NCSN needs x of shape [B, H, W, C], got {x.shape}.")
    if jnp.shape(time_cond) not in ((), x.shape[:1]):
      raise ValueError(
        f"NCSN needs time_cond of shape {x.shape[:1]} or (), got "
        f"{jnp.shape(time_cond)}."
      )
    total = 2 ** (len(self.channel_mult) - 3)
    if x.shape[1] % total or x.shape[2] % total:
      raise ValueError(
        f"NCSN with {len(self.channel_mult)} stages needs height and width "
        f"divisible by {total}, got {x.shape[1]} x {x.shape[2]}."
      )


_V2 = NCSN(conditional=False, sigma_max=50.0, num_scales=232)
_DEEPER = _V2.clone(
  channel_mult=(1, 2, 2, 4, 4), sigma_max=190.0, num_scales=1086
)

# The published networks: repository / configuration.
NETWORKS = {
  "ncsn/mnist": NCSN(channels=64),
  "ncsn/celeba": NCSN(),
  "ncsn/cifar10": NCSN(),
  "ncsnv2/cifar10": _V2,
  "ncsnv2/celeba": _V2.clone(sigma_max=90.0, num_scales=500),
  "ncsnv2/church": _DEEPER.clone(sigma_max=140.0, num_scales=788),
  "ncsnv2/bedroom": _DEEPER,
  "ncsnv2/tower": _DEEPER,
  "ncsnv2/ffhq": _V2.clone(
    channel_mult=(1, 2, 2, 2, 4, 4), sigma_max=348.0, num_scales=2311
  ),
}
