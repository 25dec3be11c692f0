"""Masked image modelling: what is hidden, and what is asked of it."""

from jaxgen.masked.masks import blockwise_mask, random_mask
from jaxgen.masked.objectives import masked_image_loss

__all__ = ["blockwise_mask", "masked_image_loss", "random_mask"]
