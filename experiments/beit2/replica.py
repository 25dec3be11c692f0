"""BEiT v2 in small: what its tokens and its patch aggregation are good for.

  python -m experiments.beit2.replica mnist5k --seeds 0  # one CPU core
  python -m experiments.beit2.replica openmoji64_small --seeds 0  # one CPU core
  python -m experiments.beit2.replica mnist5k --arms own own-aggregation
  python -m experiments.beit2.replica openmoji64 --dtype bfloat16  # one GPU

Pre-trains the same vision transformer without labels in several ways, the arms:
on the tokens of a discrete autoencoder, as BEiT; on those of VQ-KD; and on
those with patch aggregation, as BEiT v2. Each is fine-tuned with 500 and with
all labels, and probed while frozen, by the mean of its patches and by its class
token. What is compared is the accuracy on held-out images.

An arm of `openmoji64_small` takes about a quarter of an hour.

VQ-KD's teacher is a small classifier that ships with jaxgen and has seen all
labels, as CLIP has seen captions. In the arms "own" the teacher has seen no
more than the network that is compared: it is the one of the first arm, after
fine-tuning with 500 labels.

Both tokenizers have as many tokens, and all arms the same recipe. Every part
continues where it was stopped. The paper's numbers are of ImageNet-1k, which
have nothing to do with these.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from experiments import results
from experiments.beit import config as beit_config
from experiments.beit import (
  finetune,
  finetune_config,
  in_small,
  linear_probe,
  model,
  probe_config,
  replica_figures,
)
from experiments.beit import pretrain as beit
from experiments.beit.config import Pretrain
from experiments.beit.finetune_config import Finetune
from experiments.beit.in_small import judged_on, part, row_name
from experiments.beit.probe_config import Probe
from experiments.beit2 import config as vqkd_config
from experiments.beit2 import pretrain, train_vqkd
from experiments.beit2.config import Tokenizer as Vqkd
from experiments.cli import command_line
from experiments.dvae import config as dvae_config
from experiments.dvae import train as dvae
from experiments.dvae.config import Config as Dvae
from experiments.results import Claim, Result, Row

TITLE = "BEiT v2 in small (top-1 accuracy, %)"
# Column -> what the probe is told of a block.
PROBES = {"probe: mean of patches": "mean", "probe: class token": "cls"}
MEAN, CLS = PROBES
LABELS = (500, 0)
COLUMNS = (MEAN, CLS, *(row_name(n) for n in LABELS))
ArmName = Literal["dvae", "vqkd", "vqkd-aggregation", "own", "own-aggregation"]


class Arm(NamedTuple):
  """A way of pre-training.

  Attributes:
    row: of the table.
    tokenizer: a discrete autoencoder, "dvae"; or VQ-KD, of the teacher that the
      replica names, "vqkd", or of the fine-tuned first arm, "own".
    aggregation: with patch aggregation.
    paper: the paper's number of each column, where it has one.
  """

  row: str
  tokenizer: Literal["dvae", "vqkd", "own"]
  aggregation: bool
  paper: dict[str, str]


ARMS: dict[ArmName, Arm] = {
  "dvae": Arm("dVAE", "dvae", False, {MEAN: "56.7", row_name(0): "82.9"}),
  "vqkd": Arm("VQ-KD", "vqkd", False, {}),
  "vqkd-aggregation": Arm(
    "VQ-KD, aggregation", "vqkd", True, {CLS: "80.1", row_name(0): "85.0"}
  ),
  "own": Arm("VQ-KD, own teacher", "own", False, {}),
  "own-aggregation": Arm("VQ-KD, own teacher, aggregation", "own", True, {}),
}
_COMMAND = "python -m experiments.beit2.replica NAME --arms "
ROWS = tuple(
  Row(arm.row, dict.fromkeys(COLUMNS, "") | arm.paper, _COMMAND + name)
  for name, arm in ARMS.items()
)


def _claims(plain: ArmName, aggregated: ArmName, end: str) -> tuple[Claim, ...]:
  first, second, third = (ARMS[n].row for n in ("dvae", plain, aggregated))
  better = f"VQ-KD's tokens are better targets than a dVAE's{end}: "
  return (
    *(
      Claim(better + column, (first, column), (second, column))
      for column in COLUMNS
      if column != CLS
    ),
    Claim(
      f"patch aggregation improves the class token{end}",
      (second, CLS),
      (third, CLS),
    ),
    Claim(
      f"patch aggregation, with the class token, improves the probe{end}",
      (second, MEAN),
      (third, CLS),
    ),
    *(
      Claim(
        f"both are better than BEiT{end}: {column}",
        (first, column),
        (third, column),
      )
      for column in COLUMNS[2:]
    ),
  )


CLAIMS = (
  *_claims("vqkd", "vqkd-aggregation", ""),
  *_claims("own", "own-aggregation", " (own teacher)"),
)
NOTE = """
The paper's numbers are of BEiT-B and BEiT v2-B after 300 epochs of ImageNet-1k
(its Tables 1 and 2), and no yardstick here. A seed draws weights, masks, views
and the labels that are used; the first two tokenizers are the same for all
seeds. The probe's block is chosen by the images that it is judged by, in all
rows; the last block's is among the means. VQ-KD's teacher is a classifier that
has seen all labels of the training split, so that its tokens tell more of the
classes than the first row's can; the own teacher has seen 500, those of the
first row's fine-tuning.
"""


@dataclasses.dataclass(frozen=True)
class Replica:
  """What is trained and measured.

  Attributes:
    dvae: the discrete autoencoder.
    vqkd: VQ-KD, with its teacher.
    pretrain: the vision transformer without labels; `early_layer` is of the
      arms with patch aggregation.
    finetune: with labels; its network is made that of `pretrain`.
    probe: of the frozen network.
    arms: ways of pre-training.
    seeds: everything but the tokenizers is trained with each.
    dtype: of all networks' computation.
    data_dir: where TFDS keeps data sets; its own default if empty.
    workdir: for all checkpoints and results; runs/beit2-replica-NAME by
      default.
    smoke: shrink all parts to seconds.
  """

  dvae: Dvae
  vqkd: Vqkd
  pretrain: Pretrain
  finetune: Finetune
  probe: Probe
  arms: tuple[ArmName, ...] = ("dvae", "vqkd", "vqkd-aggregation")
  seeds: tuple[int, ...] = (0, 1, 2)
  dtype: Literal["float32", "bfloat16"] = "float32"
  data_dir: str = ""
  workdir: str = ""
  smoke: bool = False

  @property
  def root(self) -> Path:
    """The directory of all parts."""
    return Path(self.workdir or f"runs/beit2-replica-{self.pretrain.name}")


def make_tokenizer(what: Replica, seed: int, kind: str) -> Path:
  """Trains a tokenizer, if it is not there yet; its workdir."""
  if kind == "dvae":
    return dvae.train(part(what, what.dvae, "dvae"))
  if kind == "vqkd":
    return train_vqkd.train(part(what, what.vqkd, "vqkd"))
  pretrained = pretrained_arm(what, seed, "dvae")
  tuning = finetuning(what, seed, "dvae", pretrained, LABELS[0])
  finetune.train(tuning)
  small = beit_config.smoke(what.pretrain) if what.smoke else what.pretrain
  return train_vqkd.train(
    part(
      what,
      what.vqkd,
      f"seed{seed}/own-vqkd",
      teacher=tuning.workdir,
      teacher_dim=small.width,
      seed=seed,
    )
  )


def pretraining(what: Replica, seed: int, name: ArmName) -> Pretrain:
  """How an arm is pre-trained, once its tokenizer is there."""
  arm = ARMS[name]
  tokenizer = make_tokenizer(what, seed, arm.tokenizer)
  return part(
    what,
    what.pretrain,
    f"seed{seed}/{name}/pretrain",
    tokenizer=str(tokenizer),
    early_layer=what.pretrain.early_layer if arm.aggregation else 0,
    seed=seed,
  )


def pretrained_arm(what: Replica, seed: int, name: ArmName) -> Path:
  """Pre-trains an arm, if it is not yet; its workdir."""
  return beit.train(pretraining(what, seed, name))


def finetuning(
  what: Replica, seed: int, name: ArmName, init: Path, labels: int
) -> Finetune:
  """How an arm is fine-tuned with so many labels, 0 for all."""
  return part(
    what,
    model.like(what.finetune, what.pretrain),
    f"seed{seed}/{name}/finetune-{labels or 'all'}",
    init=str(init),
    labels=labels,
    seed=seed,
  )


def measure(what: Replica, seed: int, name: ArmName) -> Result:
  """Trains and judges one arm with one seed."""
  config = pretraining(what, seed, name)
  timer = results.Timer()
  pretrained = beit.train(config)
  values: dict[str, float] = {}
  layers = []
  for column, features in PROBES.items():
    changes = {"init": str(pretrained), "features": features, "seed": seed}
    workdir = f"seed{seed}/{name}/probe-{features}"
    found = linear_probe.probe(part(what, what.probe, workdir, **changes))
    values[column] = 100 * found.best.top1
    values[f"{column}, last block"] = 100 * found.layers[-1].top1
    layers.append(found.layer)
  for labels in LABELS:
    tuning = finetuning(what, seed, name, pretrained, labels)
    judged = finetune.train(tuning)
    assert judged is not None  # the small recipes have a test split
    values[row_name(labels)] = 100 * judged.top1
  protocol = (
    f"pre-trained on {config.batch_size * config.steps:,} views; best blocks "
    f"{' and '.join(map(str, layers))}; fine-tuned for {what.finetune.steps} "
    f"steps of {what.finetune.batch_size}; {judged_on(what.finetune)}"
  )
  return make_result(name, values, config, protocol, timer.seconds())


def make_result(
  name: ArmName,
  values: dict[str, float],
  config: Pretrain,
  protocol: str,
  seconds: float,
) -> Result:
  """The result of an arm; `values` are in percent."""
  fields: dict[str, Any] = dataclasses.asdict(config)
  fields["tokenizer"] = ARMS[name].tokenizer  # no path of this machine
  ours = {column: f"{values[column]:.1f}" for column in COLUMNS}
  row = ARMS[name].row
  return Result(TITLE, row, ours, values, fields, protocol, seconds)


def main(what: Replica) -> None:
  """Trains and measures everything, and writes tables and figures."""
  for seed in what.seeds:
    for name in what.arms:
      print(f"seed {seed}: {ARMS[name].row}", flush=True)
      result = measure(what, seed, name)
      results.save(result, what.root / "results")
      print(f"{result.row}: {dict(result.ours)}", flush=True)
  report(what.root)


def report(root: Path) -> None:
  """Writes replica.json and .md, and accuracies.png, of all results there."""
  found = [results.read(path) for path in (root / "results").glob("*.json")]
  rows = [arm.row for arm in ARMS.values()]
  found.sort(key=lambda r: (rows.index(r.row), r.config["seed"]))
  content = in_small.summary(found, list(found[0].values))
  files = {
    "dvae": root / "dvae" / "reconstruction.json",
    "vqkd": root / "vqkd" / "evaluation.json",
  }
  tokenizers = {
    name: json.loads(path.read_text())
    for name, path in files.items()
    if path.is_file()
  }
  text = json.dumps({"rows": content, "tokenizers": tokenizers}, indent=2)
  (root / "replica.json").write_text(text + "\n")
  curve = {
    column.replace(": ", "\n").replace(", ", "\n"): {
      row: values[column] for row, values in content.items()
    }
    for column in COLUMNS
  }
  replica_figures.plot_curve(curve, root / "accuracies.png", list(content))
  path = root / "replica.md"
  in_small.write_table(path, TITLE, ROWS, CLAIMS, NOTE, found)
  print(f"saved: {path}, replica.json, accuracies.png, results/")


def _replica(name: str) -> Replica:
  small = dvae_config.CONFIGS[name]
  return Replica(
    small,
    dataclasses.replace(vqkd_config.CONFIGS[name], num_codes=small.num_tokens),
    pretrain.CONFIGS[name],
    finetune_config.CONFIGS[name],
    probe_config.CONFIGS[name],
  )


CONFIGS = {
  name: _replica(name) for name in ("mnist5k", "openmoji64_small", "openmoji64")
}

if __name__ == "__main__":
  named = {name: (name, what) for name, what in CONFIGS.items()}
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
