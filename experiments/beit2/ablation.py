"""What BEiT v2's Tables 4 to 6 do: tokenizers and pre-trainings compared.

For each row and seed a tokenizer is trained, unless another row has trained it;
with its tokens a network is pre-trained without labels, fine-tuned, and probed
by its last block. Every training continues where it was stopped.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import results
from experiments.beit import (
  finetune,
  finetune_config,
  linear_probe,
  measuring,
  model,
  probe_config,
)
from experiments.beit import pretrain as beit
from experiments.beit.config import Pretrain
from experiments.beit.finetune_config import Finetune
from experiments.beit.in_small import part
from experiments.beit.probe_config import Probe
from experiments.beit2 import config as vqkd_config
from experiments.beit2 import finetune as finetune2
from experiments.beit2 import pretrain, train_vqkd
from experiments.beit2.config import Tokenizer
from experiments.checks import chosen_rows
from experiments.results import Claim, Result, Row

TUNED, PROBED, USED, DISTANCE = "ImageNet", "probe", "codes used", "1 - cos"
COLUMNS = (DISTANCE, USED, TUNED, PROBED)


class Variant(NamedTuple):
  """What a row changes.

  Attributes:
    tokenizer: a name, the same of rows that share a tokenizer.
    vqkd: its configuration -> changes of it.
    pretrain: configuration of the pre-training -> changes of it.
  """

  tokenizer: str = "default"
  vqkd: Callable[[Tokenizer], Mapping[str, Any]] = lambda config: {}
  pretrain: Callable[[Pretrain], Mapping[str, Any]] = lambda config: {}


@dataclasses.dataclass(frozen=True)
class Study:
  """What is trained and measured.

  Attributes:
    vqkd: the tokenizer.
    pretrain: the network without labels.
    finetune: with labels; its network is made that of `pretrain`.
    probe: of the frozen network.
    tokenizer: a released file, or a workdir of `train_vqkd`, in the place of
      `vqkd` where a row changes nothing of it; empty to train it.
    rows: their names; all by default.
    seeds: of the pre-training, fine-tuning and probe.
    labels: images to fine-tune with; 0 for all.
    dtype: of all networks' computation.
    data_dir: where TFDS keeps data sets; its own default if empty.
    workdir: for all checkpoints and results; by default in runs/.
    smoke: shrink all parts to seconds.
  """

  vqkd: Tokenizer
  pretrain: Pretrain
  finetune: Finetune
  probe: Probe
  tokenizer: str = ""
  rows: tuple[str, ...] = ()
  seeds: tuple[int, ...] = (0,)
  labels: int = 0
  dtype: Literal["float32", "bfloat16"] = "float32"
  data_dir: str = ""
  workdir: str = ""
  smoke: bool = False

  @property
  def root(self) -> Path:
    """The directory of all parts."""
    return Path(self.workdir or f"runs/beit2-ablation-{self.pretrain.name}")


STUDIES = {
  "base_300ep": Study(
    vqkd_config.CONFIGS["base_3_clip"],
    pretrain.CONFIGS["base_300ep"],
    finetune2.CONFIGS["base_300ep"],
    probe_config.CONFIGS["in1k"],
  )
} | {
  name: Study(
    vqkd_config.CONFIGS[name],
    pretrain.CONFIGS[name],
    finetune_config.CONFIGS[name],
    probe_config.CONFIGS[name],
    labels=labels,
  )
  # Few, or all rows would be alike.
  for name, labels in (
    ("mnist5k", 200),
    ("openmoji64_small", 1000),
    ("openmoji64", 1000),
  )
}


def train_tokenizer(what: Study, variant: Variant) -> Path:
  """Trains a row's tokenizer, if none is given or there yet."""
  changes = variant.vqkd(what.vqkd)
  if what.tokenizer and not changes:
    return Path(what.tokenizer)
  name = f"tokenizer-{variant.tokenizer}"
  return train_vqkd.train(part(what, what.vqkd, name, **changes))


def measure(
  title: str, row: str, what: Study, variant: Variant, seed: int
) -> Result:
  """Trains and judges one row with one seed."""
  timer = results.Timer()
  tokenizer = train_tokenizer(what, variant)
  values: dict[str, float] = {}
  found = tokenizer / "evaluation.json"
  if found.is_file():
    usage = json.loads(found.read_text())
    values = {DISTANCE: usage["rec"], USED: usage["used"]}
  where = f"{row}-seed{seed}"
  config = part(
    what,
    what.pretrain,
    f"{where}/pretrain",
    tokenizer=str(tokenizer),
    seed=seed,
    **variant.pretrain(what.pretrain),
  )
  shared = {"init": str(beit.train(config)), "seed": seed}
  tuning = part(
    what,
    model.like(what.finetune, config),
    f"{where}/finetune",
    labels=what.labels,
    **shared,
  )
  tuned = finetune.train(tuning)
  assert tuned is not None  # all recipes have a test split
  features = "cls" if config.early_layer else "mean"
  last = linear_probe.probe(
    part(what, what.probe, f"{where}/probe", features=features, **shared)
  ).layers[-1]
  values |= {TUNED: 100 * tuned.top1, PROBED: 100 * last.top1}
  return make_result(title, row, what, config, values, tuned.n, timer.seconds())


def make_result(
  title: str,
  row: str,
  what: Study,
  config: Pretrain,
  values: Mapping[str, float],
  n: int,
  seconds: float,
) -> Result:
  """The result of a row; accuracies are in percent, and of n images."""
  shown = {DISTANCE: ".4f", USED: ".1%", TUNED: ".1f", PROBED: ".1f"}
  told = "class token" if config.early_layer else "mean of patches"
  protocol = (
    f"{config.steps} steps of {config.batch_size} without labels; fine-tuned "
    f"in {what.finetune.steps} of {what.finetune.batch_size} with "
    f"{what.labels or 'all'} labels; probe of the last block's {told}; {n} "
    f"images of {what.finetune.test_split}"
  )
  fields = dataclasses.asdict(config)
  fields["tokenizer"] = Path(config.tokenizer).name
  ours = {name: format(value, shown[name]) for name, value in values.items()}
  return Result(title, row, ours, values, fields, protocol, seconds)


def main(
  what: Study,
  title: str,
  rows: Sequence[Row],
  variants: Mapping[str, Variant],
  claims: Sequence[Claim],
  note: str,
) -> None:
  """Trains and measures the rows of a table, each with every seed.

  Raises:
    ValueError: a row has no such name.
  """
  chosen = chosen_rows(what.rows, variants)
  measured = []
  for name in chosen:
    for seed in what.seeds:
      print(f"{name}, seed {seed}", flush=True)
      measured.append(measure(title, name, what, variants[name], seed))
  out = what.root / "-".join(title.lower().split()[2:4])  # table-4
  measuring.publish(title, rows, claims, note, measured, out)
