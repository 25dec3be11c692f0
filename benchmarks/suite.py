"""The frame of `benchmarks.sd1`, `benchmarks.beit` and `benchmarks.beit3`.

Both sides have the same random weights and inputs, each in a process of its
own; runs alternate. Reported are, beside the ratio, images or texts per second,
the share of the device's peak that our side reaches (the peak measured as a
large product of matrices of the case's dtype, FLOPs as XLA counts them) and the
most memory that either side held: on a GPU what its library allocated, else the
process. Cases are left out where their peer cannot be imported.

A suite NAME is the modules NAME_cases, with CPU_CASES, GPU_CASES, CASES and
`quick`; NAME_ours, with `prepare` and `flops`; and NAME_peer, with `prepare`.
"""

import argparse
import importlib
import json
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks import ddpm


def main(name: str, description: str) -> None:
  """Measures a suite, prints the table and saves it."""
  suite = importlib.import_module(f"benchmarks.{name}_cases")
  parser = argparse.ArgumentParser(description=description)
  parser.add_argument("--full", action="store_true")
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--repetitions", type=int, default=7)
  parser.add_argument("--wait", type=float, default=20.0)
  parser.add_argument("--only", default="", help="cases whose name holds this")
  parser.add_argument(
    "--out", type=Path, default=Path("runs/benchmarks") / name
  )
  args = parser.parse_args()
  args.devices = 1
  if args.quick:
    args.repetitions, args.wait = 2, 0.0
  # Both sides are on one GPU: JAX shall not take most of its memory at once.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  cases = suite.GPU_CASES if args.full else suite.CPU_CASES
  chosen = {key: case for key, case in cases.items() if args.only in key}
  if not chosen:
    parser.error(f"no case holds {args.only!r}: {', '.join(cases)}")
  report: dict[str, Any] = {
    "machine": ddpm.machine(),
    "quick": args.quick,
    "results": {},
  }
  for key, case in chosen.items():
    if missing := ddpm.problem(case.peer):
      print(f"left out: {key} ({missing})")
      continue
    module = f"benchmarks.suite_worker {name}"
    found = ddpm.compare(key, args, module, case.peer)
    found |= {"peer": case.peer, "batch": case.batch}
    report["results"][key] = found
    print(row(key, found), flush=True)
  if not report["results"]:
    return
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
  args.out.with_suffix(".md").write_text(table(report))
  print("\n" + table(report))


def table(report: dict[str, Any]) -> str:
  """The report in Markdown."""
  texts = [
    result["about"][side]["text"]
    for result in report["results"].values()
    for side in ("jaxgen", result["peer"])
  ]
  lines = [
    f"{report['machine']}; {'; '.join(dict.fromkeys(texts))}."
    + (" QUICK" if report["quick"] else ""),
    "",
    "| case | peer | jaxgen | ratio | pairs | examples/s | of the peak "
    "| memory, theirs and ours | first call | busy |",
    "|---|---|---|---|---|---|---|---|---|---|",
    *(row(name, result) for name, result in report["results"].items()),
  ]
  return "\n".join(lines) + "\n"


def row(name: str, result: dict[str, Any]) -> str:
  """One line: medians, their ratio, the pairs' range, and what is ours."""
  peer = result["peer"]
  theirs, ours = (result["seconds"][side] for side in (peer, "jaxgen"))
  about = result["about"]["jaxgen"]
  pairs, seconds = ddpm.ratios(theirs, ours), statistics.median(ours)
  memory = [
    result["about"][side]["memory"] / 2**30 for side in (peer, "jaxgen")
  ]
  return (
    f"| {name} | {statistics.median(theirs):.3f} s ({peer}) "
    f"| {seconds:.3f} s | {statistics.median(theirs) / seconds:.2f} "
    f"| {min(pairs):.2f} to {max(pairs):.2f} | {result['batch'] / seconds:.3g} "
    f"| {about['flops'] / seconds / about['peak']:.0%} "
    f"| {memory[0]:.1f}, {memory[1]:.1f} GiB "
    f"| {result['first_call']['jaxgen']:.0f} s | {result['busy']:.0%} |"
  )
