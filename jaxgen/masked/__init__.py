"""Masked image modelling: what is hidden, and what is asked of it."""

from jaxgen.masked.beam_search import beam_search
from jaxgen.masked.captioning import caption_loss, write_captions
from jaxgen.masked.data_modelling import (
  mask_words,
  masked_data_loss,
  masked_places,
  most_masked,
)
from jaxgen.masked.masks import blockwise_mask, random_mask
from jaxgen.masked.objectives import (
  masked_image_loss,
  masked_pixel_loss,
  patch_aggregation_loss,
  vq_kd_loss,
)
from jaxgen.masked.pairs import (
  answer_loss,
  answer_targets,
  contrastive_loss,
  retrieval_recalls,
)
from jaxgen.nn.vit import image_patches

__all__ = [
  "answer_loss",
  "answer_targets",
  "beam_search",
  "blockwise_mask",
  "caption_loss",
  "contrastive_loss",
  "image_patches",
  "mask_words",
  "masked_data_loss",
  "masked_image_loss",
  "masked_pixel_loss",
  "masked_places",
  "most_masked",
  "patch_aggregation_loss",
  "random_mask",
  "retrieval_recalls",
  "vq_kd_loss",
  "write_captions",
]
