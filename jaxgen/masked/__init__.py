"""Masked image modelling: what is hidden, and what is asked of it."""

from jaxgen.masked.masks import blockwise_mask, random_mask
from jaxgen.masked.objectives import (
  image_patches,
  masked_image_loss,
  masked_pixel_loss,
  patch_aggregation_loss,
  vq_kd_loss,
)

__all__ = [
  "blockwise_mask",
  "image_patches",
  "masked_image_loss",
  "masked_pixel_loss",
  "patch_aggregation_loss",
  "random_mask",
  "vq_kd_loss",
]
