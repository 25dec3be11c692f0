"""BEiT-3 for semantic segmentation: recipes of ours, with UPerNet.

Wang et al. 2023, section 3.2, put ViT-Adapter and Mask2Former on the giant
network, and nothing of it was released. Here are BEiT's pyramid and heads in
their place, and of the released networks BEiT's recipe for ADE20K
(`experiments.beit.segment_config`) with the rate and the layer decay by which
BEiT-3 is fine-tuned on ImageNet. Nobody has published numbers of these.
"""

import dataclasses
from typing import Any

from experiments.beit.segment_config import PUBLISHED, Segmentation
from experiments.beit3.config import GIANT, LARGE
from experiments.beit3.recipes import RECIPES
from jaxgen.data.scenes import NUM_CLASSES


@dataclasses.dataclass(frozen=True)
class Segment(Segmentation):
  """BEiT-3's; the defaults are those of the released base network.

  `init` is a workdir of `pretrain` or a released .pth file.

  Attributes:
    init_size: of the images that a released file was trained on.
    shared_attention: the paper's network; else the released one.
    sub_norm: normalisations before the branches' last layers.
    paper_init: the paper's initial weights.
  """

  init_size: int = 224
  shared_attention: bool = False
  sub_norm: bool = True
  paper_init: bool = False


def _ours(size: str, **changes: Any) -> Segment:
  recipe = RECIPES[f"imagenet_{size}"]
  return Segment(size, lr=recipe.lr, layer_decay=recipe.layer_decay, **changes)


_BEITS_LARGE = PUBLISHED["large_512"]
_GIANT = {k: v for k, v in GIANT.items() if hasattr(Segment, k)}

SEGMENTATIONS = {
  "base": _ours("base"),
  "large": _ours(
    "large",
    **LARGE,
    levels=_BEITS_LARGE.levels,
    drop_path=_BEITS_LARGE.drop_path,
  ),
  # Size and schedule are the paper's (Table 15), the heads are not.
  "giant": Segment(
    "giant",
    **_GIANT,
    crop_size=896,
    stride=597,
    long=3584,
    short=896,
    levels=(12, 19, 26, 39),
    drop_path=0.5,
    lr=1e-5,
    layer_decay=0.95,
    decay_steps=80_000,
    steps=80_000,
  ),
  # Scenes of digits, grey in three channels: the network of `pretrain
  # openmoji32`, on a CPU.
  "mnist5k_seg": Segment(
    "mnist5k_seg",
    dataset="mnist5k",
    test_split="test",
    scenes=4000,
    test_scenes=200,
    num_classes=NUM_CLASSES,
    reduce_zero_label=False,
    crop_size=64,
    stride=48,
    long=384,
    short=96,
    ratios=(0.75, 1.5),
    max_share=0.95,
    flip=False,
    mean=(127.5,) * 3,
    std=(127.5,) * 3,
    patch_size=8,
    width=96,
    num_layers=4,
    num_heads=4,
    mlp_width=384,
    shared_attention=True,
    paper_init=True,
    levels=(0, 1, 2, 3),
    drop_path=0.0,
    lr=2e-3,
    layer_decay=0.75,
    warmup_steps=40,
    decay_steps=800,
    steps=800,
    save_every=200,
    log_every=10,
  ),
}
