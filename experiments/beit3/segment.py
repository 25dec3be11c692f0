"""Trains BEiT-3's image half with UPerNet for semantic segmentation.

  python -m experiments.beit3.segment base \\
    --init beit3_base_itc_patch16_224.pth --dataset ade20k:ADEChallengeData2016
  python -m experiments.beit3.segment mnist5k_seg --init runs/beit3-openmoji32

The same command continues a run that was stopped or killed. The recipes are
ours, BEiT's with BEiT-3's rates (`segment_config`): the paper's giant network,
with a mean IoU of 62.0 (62.8 with several scales), had ViT-Adapter and
Mask2Former, which are not here and were not released. --init is a released
file, whose positions are resized as the released code does for other tasks, or
a workdir of `experiments.beit3.pretrain`; without it the backbone begins at
random. Not run on ADE20K. `mnist5k_seg` segments scenes of digits, in a quarter
of an hour on two CPU cores; from scratch, with --layer-decay 1, its mean IoU is
53.9. At the end the test split is scored; `experiments.beit3.table_ade20k` does
so again, with several scales on demand.
"""

from typing import Any

import jax
import jax.numpy as jnp
import tyro

from experiments.beit import segment
from experiments.beit.segment_model import Family
from experiments.beit3 import model
from experiments.beit3.segment_config import SEGMENTATIONS, Segment
from experiments.cli import command_line
from jaxgen.nn.beit3_tasks import ImageBackbone
from jaxgen.types import PyTree


def make_backbone(config: Segment) -> ImageBackbone:
  """The image half; no output of a block is normalised."""
  return ImageBackbone(model.make_trunk(config).clone(output_norm=False))


def pretrained_backbone(config: Segment, backbone: ImageBackbone) -> PyTree:
  """The parameters of `config.init`, for images of the crops' size.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: `init` holds another network, or something else.
  """
  size = config.crop_size
  x = jnp.zeros((1, size, size, config.image_channels))
  wanted: Any = jax.eval_shape(backbone.init, jax.random.key(0), x)["params"]
  return {
    "trunk": model.pretrained_trunk(
      config, backbone.trunk, size, wanted["trunk"]
    )
  }


FAMILY = Family(
  "beit3_segment",
  "runs/beit3-segment-",
  Segment,
  SEGMENTATIONS,
  make_backbone,
  pretrained_backbone,
  published=False,
)

if __name__ == "__main__":
  named = {name: (name, config) for name, config in SEGMENTATIONS.items()}
  command_line(
    lambda: segment.train(tyro.extras.overridable_config_cli(named), FAMILY)
  )
