"""Pre-trains BEiT v2: BEiT with its tokenizer and with patch aggregation.

  python -m experiments.beit2.pretrain base_300ep --dtype bfloat16 \\
    --tokenizer vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7.pth
  python -m experiments.beit2.pretrain mnist5k --tokenizer runs/vqkd-mnist5k

The same command continues a run that was stopped or killed. Fine-tuning and the
linear probe are `experiments.beit`'s, which take the workdir as `--init`. The
release trained the base model on 16 V100, the large one on 64; fine-tuned, its
BEiT v2-B reaches 85.0% after 300 epochs and 85.5% after 1600, L 86.6% and
87.3%. Not run here.
"""

import dataclasses
from typing import Any

import tyro

from experiments.beit import config as beit
from experiments.beit import pretrain
from experiments.beit.config import Pretrain
from experiments.cli import command_line

_DATASET, _BATCH = "imagenet2012", 2048


def _released(name: str, epochs: int, **changes: Any) -> Pretrain:
  """Epochs of ImageNet-1k (release: PRETRAINING.md); 10 of them of warm-up."""
  epoch = beit.epoch_steps(_DATASET, _BATCH)
  fields: dict[str, Any] = beit.PLUS | {
    "dataset": _DATASET,
    "normalize": "imagenet",
    "crop_area": 0.2,
    "second_filter": "bicubic",
    "exact_mask": True,
    "clip_norm": 3.0,
    "lr": 1.5e-3,
    "batch_size": _BATCH,
    "early_layer": 9,
    "warmup": 10 * epoch,
    "decay_steps": epochs * epoch,
    "steps": epochs * epoch,
  }
  return Pretrain(name, **fields | changes)


_SHORT: dict[str, Any] = {"epochs": 300, "b2": 0.98, "drop_path": 0.0}
_LONG: dict[str, Any] = {"epochs": 1600, "b2": 0.999, "drop_path": 0.1}
_LARGE: dict[str, Any] = beit.PLUS_LARGE | {"early_layer": 21}
PUBLISHED = {
  "base_300ep": _released("base_300ep", **_SHORT),
  "base_1600ep": _released("base_1600ep", **_LONG),
  "large_300ep": _released("large_300ep", **_SHORT | _LARGE),
  "large_1600ep": _released("large_1600ep", **_LONG | _LARGE),
}
# Those of `experiments.beit`, with the patches of the last but one block.
SMALL = {
  name: dataclasses.replace(
    config,
    exact_mask=True,
    b2=0.98,
    early_layer=config.num_layers - 1,
    workdir=f"runs/beit2-{name}",
  )
  for name, config in beit.SMALL.items()
}
CONFIGS = PUBLISHED | SMALL


if __name__ == "__main__":
  named = {name: (name, config) for name, config in CONFIGS.items()}
  command_line(
    lambda: pretrain.train(tyro.extras.overridable_config_cli(named))
  )
