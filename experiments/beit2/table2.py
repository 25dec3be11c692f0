"""BEiT v2 Table 2: linear probes on ImageNet-1k.

  python -m experiments.beit2.table2 in1k --init runs/beit2-base_300ep
  python -m experiments.beit2.table2 mnist5k --init runs/beit2-mnist5k

Trains the probe (it continues where it was stopped) and reports the last
block's classifier: it is told the class token where the network was pre-trained
with patch aggregation, and the mean of the patches where it was not. The paper
does not say how it trained its classifier, and nothing of it was released; the
recipe here is BEiT's. Not run on ImageNet.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from experiments import results
from experiments.beit import measuring, probe_config
from experiments.beit.linear_probe import probe
from experiments.beit.probe_config import Probe
from experiments.cli import command_line
from experiments.results import Claim, Result, Row
from jaxgen import training

TITLE = "BEiT v2 Table 2 (linear probe)"
_COMMAND = "python -m experiments.beit2.table2 in1k --init runs/"
BEIT, BEIT2 = "BEiT-B", "BEiT v2-B"
ROWS = (
  Row(BEIT, {"top-1": "56.7"}, _COMMAND + "beit-base_plain_in1k"),
  Row(BEIT2, {"top-1": "80.1"}, _COMMAND + "beit2-base_300ep"),
)
CLAIMS = (
  Claim(
    "BEiT v2's class token tells more than BEiT's patches",
    (BEIT, "top-1"),
    (BEIT2, "top-1"),
  ),
)
NOTE = (
  "\nOf the paper's table only these rows are shown; both networks were "
  "pre-trained for 300 epochs.\n"
)


def told(init: str) -> Literal["cls", "mean"]:
  """What stands for an image: "cls" after patch aggregation, else "mean".

  Args:
    init: a workdir of pre-training, or a released file; of these BEiT v2's
      were pre-trained with patch aggregation.
  """
  if not (Path(init) / "checkpoints").is_dir():
    return "cls" if Path(init).name.startswith("beitv2_") else "mean"
  saved = training.restore_experiment(Path(init) / "checkpoints")
  return "cls" if saved.get("early_layer") else "mean"


def main(config: Probe) -> None:
  """Trains and measures one probe."""
  timer = results.Timer()
  config = dataclasses.replace(config, features=told(config.init))
  last = probe(config).layers[-1]
  names = {"cls": "class token", "mean": "mean of patches"}
  protocol = (
    f"last block, {names[config.features]}; {config.steps} steps of "
    f"{config.batch_size}; {last.n} images of {config.test_split}; 95% "
    "interval (Wilson)"
  )
  result = Result(
    TITLE,
    BEIT2 if config.features == "cls" else BEIT,
    measuring.columns(last),
    measuring.values(last),
    dataclasses.asdict(config) | {"init": Path(config.init).name},
    protocol,
    timer.seconds(),
  )
  out = config.workdir or f"runs/probe-{config.name}"
  measuring.publish(TITLE, ROWS, CLAIMS, NOTE, [result], out)


if __name__ == "__main__":
  named = {
    name: (name, config) for name, config in probe_config.CONFIGS.items()
  }
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
