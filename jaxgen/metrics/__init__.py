"""Scores of generated images: FID, sFID, IS, KID, precision and recall.

PSNR and SSIM compare reconstructed images with their originals; captions are
compared with people's by BLEU, ROUGE-L and CIDEr-D.

Statistics are gathered in one pass (`collect`), compared by `scores`, and every
`Score` carries the protocol under which it holds.
"""

from jaxgen.metrics.captions import caption_scores
from jaxgen.metrics.distances import frechet_distance, kernel_distance
from jaxgen.metrics.features import Extractor, Features, inception, small
from jaxgen.metrics.files import (
  open_images,
  read_statistics,
  write_images,
  write_statistics,
)
from jaxgen.metrics.inception_score import inception_score
from jaxgen.metrics.precision_recall import precision_recall
from jaxgen.metrics.protocol import Protocol, Score
from jaxgen.metrics.reconstruction import psnr, ssim
from jaxgen.metrics.scores import scores
from jaxgen.metrics.statistics import Statistics, batches_of, collect

__all__ = [
  "Extractor",
  "Features",
  "Protocol",
  "Score",
  "Statistics",
  "batches_of",
  "caption_scores",
  "collect",
  "frechet_distance",
  "inception",
  "inception_score",
  "kernel_distance",
  "open_images",
  "precision_recall",
  "psnr",
  "read_statistics",
  "scores",
  "small",
  "ssim",
  "write_images",
  "write_statistics",
]
