"""Result files, and the results table made from them.

  python -m experiments.results

writes experiments/README.md from the rows of the papers' tables, which the
table scripts hold, and from experiments/results/*.json, which those scripts
write. A cell without a result file says "not run".
"""

import dataclasses
import importlib
import json
import math
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxgen.json_files import read_entries
from jaxgen.messages import shown

RESULTS = Path(__file__).parent / "results"
NOT_RUN = "not run"
TABLES = (
  "ddpm.table1",
  "ddpm.table2",
  "iddpm.table1",
  "iddpm.table2",
  "iddpm.table3",
  "iddpm.table4",
  "ddim.table1",
  "ddim.table2",
  "ldm.table1",
  "ldm.table2",
  "ldm.table3",
  "edm.table2",
  "ncsn.table1",
  "score_sde.table1",
  "score_sde.table2",
  "score_sde.table3",
  "first_stage.table8",
  "beit.table1",
  "beit.table3",
  "beit.table4",
  "beit.table5",
  "beit.table7",
  "beit.table9",
  "beit.table11",
  "beit.replica",
  "beit2.table1",
  "beit2.table2",
  "beit2.table3",
  "beit2.table4",
  "beit2.table5",
  "beit2.table6",
  "beit2.ade20k",
  "beit2.codebooks",
  "beit2.replica",
  "beit3.table_imagenet",
  "beit3.table_vqav2",
  "beit3.table_nlvr2",
  "beit3.table_captions",
  "beit3.retrieval",
  "beit3.table_ade20k",
)


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a paper's table, or of ours on another data set.

  Attributes:
    name: as the paper prints it.
    paper: the paper's number of each column.
    command: what reproduces it.
  """

  name: str
  paper: Mapping[str, str]
  command: str


@dataclasses.dataclass(frozen=True)
class Claim:
  """What a paper concludes from a table: one number is below another.

  Attributes:
    text: the conclusion.
    smaller: row and column of the smaller number.
    larger: of the larger.
  """

  text: str
  smaller: tuple[str, str]
  larger: tuple[str, str]


def device() -> str:
  """What the computation ran on."""
  devices = jax.devices()
  return f"{len(devices)} x {devices[0].device_kind}"


def commit() -> str:
  """The commit of this checkout, marked + if files differ from it."""
  git = ["git", "-C", str(Path(__file__).parent)]
  try:
    head = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"])
    changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"])
  except (OSError, subprocess.CalledProcessError):
    return "unknown"
  return head.decode().strip() + ("+" if changed.strip() else "")


@dataclasses.dataclass(frozen=True)
class Result:
  """What one run of a table script measured for one row.

  Attributes:
    table: such as "DDPM Table 1".
    row: the row's name.
    ours: measured columns, as printed.
    values: their numbers, for claims; infinite if training diverged.
    config: the experiment's configuration.
    protocol: sample counts, splits and seeds, in words.
    seconds: the cost of measuring, with training where the script trains.
    scores: of the samples, each with its own protocol.
    device: where it ran.
    commit: of the code.
  """

  table: str
  row: str
  ours: Mapping[str, str]
  values: Mapping[str, float]
  config: Mapping[str, object]
  protocol: str
  seconds: float
  scores: Mapping[str, Mapping[str, object]] = dataclasses.field(
    default_factory=dict
  )
  device: str = dataclasses.field(default_factory=device)
  commit: str = dataclasses.field(default_factory=commit)


def save(result: Result, directory: str | Path) -> Path:
  """Writes a result as JSON and returns the file's path."""
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  name, seed = result.config.get("name", ""), result.config.get("seed", 0)
  stem = f"{result.table}_{result.row}_{name}_seed{seed}"
  path = directory / f"{_slug(stem)}.json"
  content = dataclasses.asdict(result)
  for name in ("workdir", "data_dir"):  # of this machine, not of the result
    content["config"].pop(name, None)
  path.write_text(json.dumps(content, indent=2) + "\n")
  return path


def read(path: str | Path) -> Result:
  """A result that `save` wrote.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged or holds no result.
  """
  content = read_entries(path)
  fields = {field.name: field for field in dataclasses.fields(Result)}
  wanted = ("table", "row", "ours", "values", "config", "protocol", "seconds")
  missing = [name for name in wanted if name not in content]
  unknown = [name for name in content if name not in fields]
  if missing or unknown:
    raise ValueError(
      f"{path} holds no result: {shown(missing)} are missing, {shown(unknown)} "
      "unknown"
    )
  for name, value in content.items():
    if not _KINDS[name](value):
      raise ValueError(f"{path} has {name} {shown(value)}")
  # Not of this machine, as the defaults are.
  return Result(**{"device": "unknown", "commit": "unknown"} | content)


def _is_text(value: object) -> bool:
  return isinstance(value, str)


def _is_number(value: object) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS: dict[str, Callable[[Any], bool]] = {
  **dict.fromkeys(("table", "row", "protocol", "device", "commit"), _is_text),
  "seconds": _is_number,
  "ours": lambda x: isinstance(x, dict) and all(map(_is_text, x.values())),
  "values": lambda x: isinstance(x, dict) and all(map(_is_number, x.values())),
  "config": lambda x: isinstance(x, dict) and "dataset" in x,
  "scores": lambda x: (
    isinstance(x, dict) and all(isinstance(s, dict) for s in x.values())
  ),
}


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table."""
  lines = [columns, ["---"] * len(columns), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


class Timer:
  """Seconds since it was made."""

  def __init__(self) -> None:
    """Starts."""
    self._start = time.monotonic()

  def seconds(self) -> float:
    """Elapsed, to a tenth."""
    return round(time.monotonic() - self._start, 1)


def table(title: str, rows: Sequence[Row], results: Sequence[Result]) -> str:
  """A paper's table with our numbers beside it, each with its origin."""
  columns = list(dict.fromkeys(c for row in rows for c in row.paper))
  ours = [f"ours: {c}" for c in columns]
  header = ["row", *columns, *ours, *ORIGIN]
  body = []
  for row in rows:
    paper = [row.paper.get(c, "") for c in columns]
    found = [r for r in results if r.table == title and r.row == row.name]
    if not found:
      empty = [""] * (len(ORIGIN) - 1)
      command = f"`{row.command}`"
      body.append([row.name, *paper, *[NOT_RUN] * len(ours), *empty, command])
    for r in found:
      numbers = [r.ours.get(c, NOT_RUN) for c in columns]
      body.append([row.name, *paper, *numbers, *_origin(row, r)])
  return f"### {title}\n\n{markdown(header, body)}"


def averages(title: str, results: Sequence[Result]) -> str:
  """Mean ± standard deviation of what was run more than once, or ""."""
  groups: dict[tuple[str, str], list[Result]] = {}
  for r in results:
    if r.table == title:
      groups.setdefault((r.row, str(r.config["dataset"])), []).append(r)
  groups = {key: found for key, found in groups.items() if len(found) > 1}
  columns = list(
    dict.fromkeys(c for rs in groups.values() for r in rs for c in r.values)
  )
  body = []
  for (row, dataset), found in groups.items():
    cells = [_spread([r.values.get(c) for r in found]) for c in columns]
    seeds = ", ".join(str(r.config.get("seed", "")) for r in found)
    body.append([row, dataset, seeds, *cells])
  if not body:
    return ""
  header = ["row", "data", "seeds", *columns]
  return f"Mean ± standard deviation:\n\n{markdown(header, body)}\n"


def _spread(values: Sequence[float | None]) -> str:
  known = [value for value in values if value is not None]
  if len(known) < 2:
    return NOT_RUN
  return f"{statistics.mean(known):.4g} ± {statistics.stdev(known):.2g}"


ORIGIN = ("data", "protocol", "seed", "device", "cost", "commit", "command")
REPLICAS = ("mnist5k", "openmoji", "shapes")
# The paper's model in a row's command, where ours takes its place.
_MODEL = re.compile(
  r"\b(?:ve|vp|subvp|ncsn|ncsnv2)/\w+|cifar10|imagenet64|\b(?:kl|vq)-f[\w-]+"
  r"|\b(?:base|large)_plain_in1k(?:_\w+)?|\bin1k(?:_paper)?\b|\bNAME\b"
)


def _origin(row: Row, result: Result) -> list[str]:
  """The cells that say where a number comes from."""
  dataset = str(result.config["dataset"])
  command = _MODEL.sub(str(result.config.get("name")), row.command)
  replica = " (scaled-down replica)" if dataset.startswith(REPLICAS) else ""
  return [
    dataset + replica,
    result.protocol,
    str(result.config.get("seed", "")),
    result.device,
    f"{result.seconds / 60:.0f} min",
    result.commit,
    f"`{command}`",
  ]


def claims(title: str, stated: Sequence[Claim], found: Sequence[Result]) -> str:
  """The claims of a table, each marked as seen or not on our data sets."""
  if not stated:
    return ""
  lines = []
  for claim in stated:
    verdicts = []
    for dataset in sorted({str(r.config["dataset"]) for r in found}):
      pairs = [
        [
          r.values[column]
          for r in found
          if (r.table, r.row, r.config["dataset"]) == (title, row, dataset)
          and column in r.values
        ]
        for row, column in (claim.smaller, claim.larger)
      ]
      if all(pairs):
        verdicts.append(f"{dataset}: {_verdict(*pairs)}")
    lines.append(f"- {claim.text}: {'; '.join(verdicts) or NOT_RUN}")
  return "The paper's claims:\n\n" + "\n".join(lines) + "\n"


def _verdict(smaller: Sequence[float], larger: Sequence[float]) -> str:
  """Whether each of the smaller is below each of the larger.

  Of single runs, numbers within 1% of each other decide nothing.
  """
  shown = [", ".join(f"{x:.4g}" for x in xs) for xs in (smaller, larger)]
  low, high = max(smaller), min(larger)
  word = "seen" if low < high else "not seen"
  single = len(smaller) == len(larger) == 1
  if single and math.isclose(low, high, rel_tol=0.01):
    word = "undecided"
  return f"**{word}** ({shown[0]} against {shown[1]})"


def main() -> None:
  """Regenerates experiments/README.md."""
  results = [read(path) for path in sorted(RESULTS.glob("*.json"))]
  parts = [HEADER]
  for name in TABLES:
    module = importlib.import_module(f"experiments.{name}")
    parts.append(table(module.TITLE, module.ROWS, results))
    if repeated := averages(module.TITLE, results):
      parts.append(repeated)
    parts.append(claims(module.TITLE, module.CLAIMS, results) + module.NOTE)
  path = Path(__file__).parent / "README.md"
  path.write_text("\n".join(parts))
  print(path)


HEADER = """# Results

Generated by `python -m experiments.results`: the papers' numbers, and ours
where they have been run. Numbers on `mnist5k`, `openmoji` or `shapes` are
scaled-down replicas: a small network, trained for minutes, in the row of the
method that it tests. They do not compare with the paper's numbers, only with
each other; what may carry over is the paper's claim, which stands below each
table with whether it was seen. Their FID, IS, ... use the features of a small
network that ships with jaxgen (`mnist5k-cnn`), not FID's Inception; see
[docs/scores.md](../docs/scores.md).
"""


def _slug(text: str) -> str:
  kept = (c if c.isalnum() else "-" for c in text.lower())
  return "-".join(part for part in "".join(kept).split("-") if part)


if __name__ == "__main__":
  main()
