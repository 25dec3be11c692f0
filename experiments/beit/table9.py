"""BEiT Table 9: linear probes on ImageNet-1k.

  python -m experiments.beit.table9 in1k_paper --init runs/beit-base
  python -m experiments.beit.table9 mnist5k --init runs/beit-mnist5k

Trains the probe (it continues where it was stopped) and reports the best block;
`linear_probe` says how it is chosen. The paper's best are the 9th of 12 blocks
of BEiT-B and the 14th of 24 of BEiT-L. Not run on ImageNet.
"""

import dataclasses
from pathlib import Path

import tyro

from experiments import results
from experiments.beit import measuring, model, probe_config
from experiments.beit.linear_probe import probe
from experiments.beit.probe_config import Probe
from experiments.cli import command_line
from experiments.results import Claim, Result, Row

TITLE = "BEiT Table 9 (linear probe)"
_COMMAND = "python -m experiments.beit.table9 in1k_paper --init runs/beit-"
FRESH = "BEiT-B, not trained"
ROWS = (
  Row("BEiT-B", {"top-1": "56.7"}, _COMMAND + "base_plain_in1k"),
  Row("BEiT-L", {"top-1": "73.5"}, _COMMAND + "large_plain_in1k"),
  Row(FRESH, {"top-1": ""}, _COMMAND + "base_plain_in1k --fresh"),
)
CLAIMS = (
  Claim("a larger network is better", ("BEiT-B", "top-1"), ("BEiT-L", "top-1")),
  Claim("pre-training helps", (FRESH, "top-1"), ("BEiT-B", "top-1")),
)
NOTE = (
  "\nThe best block's classifier; it is chosen by the images that it is judged "
  "by, as in the release. The last row is ours.\n"
)


def row_name(config: Probe, width: int) -> str:
  """The row of a probe of a network of this width."""
  if config.fresh:
    return FRESH
  return "BEiT-L" if width >= 1024 else "BEiT-B"


def main(config: Probe) -> None:
  """Trains and measures one probe."""
  timer = results.Timer()
  found = probe(config)
  width = model.load(config.init).backbone.width
  told = "class token and mean of patches"
  told = told if config.features == "cls_mean" else "mean of patches"
  protocol = (
    f"block {found.layer} of {len(found.layers)}, {told}; {config.steps} steps "
    f"of {config.batch_size}; {found.best.n} images of {config.test_split}; "
    "95% interval (Wilson)"
  )
  result = Result(
    TITLE,
    row_name(config, width),
    measuring.columns(found.best),
    measuring.values(found.best),
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
