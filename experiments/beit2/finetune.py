"""Fine-tunes BEiT v2 on ImageNet, by `experiments.beit.finetune`.

  python -m experiments.beit2.finetune base_1600ep \\
    --init beitv2_base_patch16_224_pt1k.pth --dtype bfloat16
  python -m experiments.beit2.finetune base_in21k --dataset folder:PATH \\
    --init beitv2_base_patch16_224_pt1k.pth
  python -m experiments.beit2.finetune base_21kto1k \\
    --init beitv2_base_patch16_224_pt1k_ft21k.pth

--init may also be a workdir of `experiments.beit2.pretrain`. Top-1 of the
release: base_300ep 85.0%, base_1600ep 85.5%, base_21kto1k 86.5%, large_300ep
86.6%, large_1600ep 87.3%, large_21kto1k 88.4%. Not run here.
"""

from typing import Any

import tyro

from experiments.beit import finetune
from experiments.beit.config import IN22K, PLUS, PLUS_LARGE, epoch_steps
from experiments.beit.finetune_config import Finetune
from experiments.cli import command_line


def _released(
  name: str,
  epochs: int,
  warmup: int,
  batch_size: int = 1024,
  dataset: str = "imagenet2012",
  **changes: Any,
) -> Finetune:
  """So many epochs, with so many of warm-up (release's get_started)."""
  epoch = epoch_steps(dataset, batch_size)
  fields: dict[str, Any] = {
    "relative_positions": "per_block",
    "normalize": "imagenet",
    "dataset": dataset,
    "batch_size": batch_size,
    "warmup": warmup * epoch,
    "decay_steps": epochs * epoch,
    "steps": epochs * epoch,
  }
  return Finetune(name, **changes | fields)


_UNMIXED: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0}
_B: dict[str, Any] = PLUS | {"lr": 5e-4}
_L: dict[str, Any] = PLUS_LARGE | {"layer_decay": 0.8, "drop_path": 0.2}
# The release says ImageNet-21k, and has 21,841 classes.
_IN21K: dict[str, Any] = {
  "epochs": 90,
  "warmup": 20,
  "batch_size": 4096,
  "dataset": IN22K,
  "test_split": "",
  "num_classes": 21_841,
  "lr": 6e-4,
  "layer_decay": 0.75,
}
CONFIGS = {
  "base_300ep": _released(
    "base_300ep", 100, 20, **_B | {"layer_decay": 0.65, "drop_path": 0.1}
  ),
  "base_1600ep": _released(
    "base_1600ep", 100, 20, **_B | {"layer_decay": 0.6, "drop_path": 0.2}
  ),
  "large_300ep": _released("large_300ep", 50, 5, **_L | {"lr": 5e-4}),
  "large_1600ep": _released("large_1600ep", 50, 5, **_L | {"lr": 2e-4}),
  "base_in21k": _released("base_in21k", **PLUS | _IN21K | {"drop_path": 0.1}),
  "large_in21k": _released(
    "large_in21k", **PLUS_LARGE | _IN21K | {"drop_path": 0.2}
  ),
  "base_21kto1k": _released(
    "base_21kto1k",
    30,
    20,
    **PLUS | _UNMIXED | {"lr": 5e-5, "layer_decay": 0.75, "drop_path": 0.1},
  ),
  "large_21kto1k": _released(
    "large_21kto1k",
    20,
    5,
    **_L | _UNMIXED | {"lr": 7e-5, "drop_path": 0.25},
  ),
}


if __name__ == "__main__":
  named = {name: (name, config) for name, config in CONFIGS.items()}
  command_line(
    lambda: finetune.train(tyro.extras.overridable_config_cli(named))
  )
