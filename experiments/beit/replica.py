"""BEiT in small, from images alone to a label-efficiency curve.

  python -m experiments.beit.replica mnist5k --seeds 0  # 2 CPU cores
  python -m experiments.beit.replica openmoji64 --dtype bfloat16  # one GPU

On two CPU cores a seed of `mnist5k` takes about a quarter of an hour; one of
`openmoji64_small` about 25 minutes on one, after a quarter of an hour for the
tokenizer.

Trains a discrete autoencoder without labels; for each seed pre-trains a vision
transformer on its tokens without labels, and then compares it with the same
transformer that was not pre-trained: both fine-tuned with 50, 500 and all
labels, and both frozen under a linear probe. What is compared is the accuracy
on held-out images.

The tokenizer is the same for all seeds, as BEiT's is given. From scratch every
block is trained at the full rate, all else is equal. Every part continues where
it was stopped. The paper's numbers are of ImageNet-1k and BEiT-B (Tables 1 and
9), which have nothing to do with these.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import results
from experiments.beit import (
  config,
  finetune,
  finetune_config,
  in_small,
  linear_probe,
  model,
  pretrain,
  probe_config,
  replica_figures,
)
from experiments.beit.config import Pretrain
from experiments.beit.finetune_config import Finetune
from experiments.beit.in_small import judged_on, part, row_name
from experiments.beit.probe_config import Probe
from experiments.cli import command_line
from experiments.dvae import config as dvae_config
from experiments.dvae import train as dvae
from experiments.dvae.config import Config as Dvae
from experiments.results import Claim, Result, Row

TITLE = "BEiT in small (top-1 accuracy, %)"
WITHOUT, WITH, GAIN = "not pre-trained", "pre-trained", "gain"
LABELS = (50, 500, 0)
PROBE = "linear probe, all labels"
_COMMAND = "python -m experiments.beit.replica NAME"


ROWS = (
  *(
    Row(row_name(n), {WITHOUT: "", WITH: "" if n else "83.2"}, _COMMAND)
    for n in LABELS
  ),
  Row(PROBE, {WITHOUT: "", WITH: "56.7"}, _COMMAND),
)
CLAIMS = (
  *(
    Claim(
      f"pre-training helps: {row.name}", (row.name, WITHOUT), (row.name, WITH)
    )
    for row in ROWS
  ),
  Claim(
    "pre-training helps more with 50 labels than with all",
    (row_name(0), GAIN),
    (row_name(50), GAIN),
  ),
)
NOTE = """
The paper's numbers are of BEiT-B on ImageNet-1k and no yardstick here. It has
no curve over labels: claims of fewer than all are ours. A seed draws weights,
masks, views and the labels that are used; all seeds share one tokenizer. The
probe's block is chosen by the images that it is judged by, for both networks.
Fine-tuning is as short from scratch, which is then far from done: pre-training
is compared at equal work with labels, and its own work is not counted.
"""


@dataclasses.dataclass(frozen=True)
class Replica:
  """What is trained and measured.

  Attributes:
    dvae: the tokenizer.
    pretrain: the vision transformer without labels, on the tokenizer's tokens.
    finetune: with labels; its network is made that of `pretrain`.
    probe: of the frozen network.
    scratch_layer_decay: in the place of fine-tuning's where nothing was
      pre-trained.
    labels: numbers of labels to fine-tune with; 0 for all.
    seeds: everything but the tokenizer is trained with each.
    dtype: of all networks' computation.
    data_dir: where TFDS keeps data sets; its own default if empty.
    workdir: for all checkpoints and results; runs/beit-replica-NAME by default.
    smoke: shrink all parts to seconds.
  """

  dvae: Dvae
  pretrain: Pretrain
  finetune: Finetune
  probe: Probe
  scratch_layer_decay: float = 1.0
  labels: tuple[int, ...] = LABELS
  seeds: tuple[int, ...] = (0, 1, 2)
  dtype: Literal["float32", "bfloat16"] = "float32"
  data_dir: str = ""
  workdir: str = ""
  smoke: bool = False

  @property
  def root(self) -> Path:
    """The directory of all parts."""
    return Path(self.workdir or f"runs/beit-replica-{self.pretrain.name}")


def measure(what: Replica, seed: int) -> Iterator[Result]:
  """Trains and judges all networks of a seed; the results of the rows."""
  timer = results.Timer()
  tokenizer = str(what.root / "dvae")
  pretrained = pretrain.train(
    part(
      what,
      what.pretrain,
      f"seed{seed}/pretrain",
      tokenizer=tokenizer,
      seed=seed,
    )
  )
  shared = timer.seconds()
  images = what.pretrain.batch_size * what.pretrain.steps
  learnt = f"pre-trained on {images:,} views"

  for labels in what.labels:
    timer = results.Timer()
    changes: dict[str, Any] = {"labels": labels, "seed": seed}
    tuned = model.like(what.finetune, what.pretrain)
    scratch = dataclasses.replace(tuned, layer_decay=what.scratch_layer_decay)
    name = f"seed{seed}/{{}}-{labels or 'all'}"
    without = part(what, scratch, name.format("scratch"), init="", **changes)
    after = part(
      what, tuned, name.format("finetune"), init=str(pretrained), **changes
    )
    found = [finetune.train(c) for c in (without, after)]
    top1 = [100 * judged.top1 for judged in found if judged is not None]
    size = f"{tuned.steps} steps of {tuned.batch_size}"
    protocol = f"{learnt}; fine-tuned for {size}; {judged_on(what.finetune)}"
    yield make_result(
      row_name(labels), top1, after, protocol, shared + timer.seconds()
    )

  timer = results.Timer()
  probed, settings = [], []
  for fresh in (True, False):
    name = f"seed{seed}/probe-{'fresh' if fresh else 'pretrained'}"
    changes = {"init": str(pretrained), "fresh": fresh, "seed": seed}
    settings.append(part(what, what.probe, name, **changes))
    probed.append(linear_probe.probe(settings[-1]))
  layers = " and ".join(str(found.layer) for found in probed)
  yield make_result(
    PROBE,
    [100 * found.best.top1 for found in probed],
    settings[-1],
    f"{learnt}; best blocks {layers}; {judged_on(what.finetune)}",
    shared + timer.seconds(),
  )


def make_result(
  row: str, top1: Sequence[float], config: Any, protocol: str, seconds: float
) -> Result:
  """The result of a row; `top1`, without and with pre-training, in percent."""
  values = dict(zip((WITHOUT, WITH), top1, strict=True))
  ours = {name: f"{value:.1f}" for name, value in values.items()}
  fields = dataclasses.asdict(config)
  fields.pop("init")  # a path of this machine
  values[GAIN] = values[WITH] - values[WITHOUT]
  return Result(TITLE, row, ours, values, fields, protocol, seconds)


def main(what: Replica) -> None:
  """Trains and measures everything, and writes tables and figures."""
  tokenizer = dvae.train(part(what, what.dvae, "dvae"))
  found: list[Result] = []
  for seed in what.seeds:
    print(f"seed {seed}", flush=True)
    for result in measure(what, seed):
      results.save(result, what.root / "results")
      found.append(result)
      print(f"{result.row}: {dict(result.ours)}", flush=True)
  report(what, tokenizer, found)


def report(what: Replica, tokenizer: Path, found: Sequence[Result]) -> None:
  """Writes replica.json and .md, curve.png and predictions.png."""
  root = what.root
  content = in_small.summary(found, (WITHOUT, WITH, GAIN))
  tokens = json.loads((tokenizer / "reconstruction.json").read_text())
  text = json.dumps({"rows": content, "tokenizer": tokens}, indent=2) + "\n"
  (root / "replica.json").write_text(text)
  curve = {
    str(labels or "all"): content[row_name(labels)]
    for labels in sorted(what.labels, key=lambda n: n or float("inf"))
    if row_name(labels) in content
  }
  replica_figures.plot_curve(
    curve, root / "curve.png", (WITHOUT, WITH), "labels"
  )
  replica_figures.draw_predictions(
    root / f"seed{what.seeds[0]}/pretrain",
    what.finetune.test_split,
    root / "predictions.png",
  )
  path = root / "replica.md"
  in_small.write_table(path, TITLE, ROWS, CLAIMS, NOTE, found)
  print(
    f"saved: {path}, replica.json, curve.png, predictions.png, "
    "results/, dvae/reconstructions.png"
  )


CONFIGS = {
  name: Replica(
    dvae_config.CONFIGS[name],
    config.CONFIGS[name],
    finetune_config.CONFIGS[name],
    probe_config.CONFIGS[name],
  )
  for name in ("mnist5k", "openmoji64_small", "openmoji64")
}

if __name__ == "__main__":
  named = {name: (name, what) for name, what in CONFIGS.items()}
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
