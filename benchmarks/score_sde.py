"""Predictor-corrector sampling and likelihood against score_sde_pytorch.

  python -m benchmarks.score_sde            # both sides in turn
  python -m benchmarks.score_sde --quick    # a minute, numbers without meaning

The peer's algorithms are written out in `benchmarks.score_peer` as released:
eager PyTorch, one call after another, and scipy's RK45 on the host. Both sides
run one small network of two convolutions, so that the loop counts, with the
same steps and tolerances, and report the network's evaluations. Needs torch and
scipy.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import ddpm
from benchmarks.score_cases import CASES

MODULE = "benchmarks.score_worker"


def main() -> None:
  """Measures, prints the table and saves it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--repetitions", type=int, default=7)
  parser.add_argument("--wait", type=float, default=20.0)
  parser.add_argument("--only", default="", help="cases whose name holds this")
  parser.add_argument(
    "--out", type=Path, default=Path("runs/benchmarks/score_sde")
  )
  args = parser.parse_args()
  args.devices = 1
  if args.quick:
    args.repetitions, args.wait = 1, 0.0
  names = [name for name in CASES if args.only in name]
  if not names:
    parser.error(f"no case holds {args.only!r}: {', '.join(CASES)}")
  found = {name: ddpm.compare(name, args, MODULE, "torch") for name in names}
  report = {
    "machine": ddpm.machine(),
    "quick": args.quick,
    "results": found,
  }
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
  args.out.with_suffix(".md").write_text(table(report))
  print(table(report))


def table(report: dict[str, Any]) -> str:
  """The report in Markdown."""
  first = next(iter(report["results"].values()))["about"]
  lines = [
    f"{report['machine']}; {first['jaxgen'][0]}; {first['torch'][0]}."
    + (" QUICK" if report["quick"] else ""),
    "",
    "| case, seconds per image | score_sde_pytorch | jaxgen | ratio | pairs "
    "| NFE, theirs and ours |",
    "|---|---|---|---|---|---|",
    *(row(name, result) for name, result in report["results"].items()),
  ]
  return "\n".join(lines) + "\n"


def row(name: str, result: dict[str, Any]) -> str:
  """One line: medians per image, their ratio, the pairs' range, NFE."""
  batch = CASES[name].batch
  theirs, ours = (result["seconds"][side] for side in ("torch", "jaxgen"))
  pairs = ddpm.ratios(theirs, ours)
  median = statistics.median
  counts = [result["about"][side][1] for side in ("torch", "jaxgen")]
  return (
    f"| {name} | {median(theirs) / batch:.4f} s | {median(ours) / batch:.4f} s "
    f"| {median(theirs) / median(ours):.2f} "
    f"| {min(pairs):.2f} to {max(pairs):.2f} | {counts[0]}, {counts[1]} |"
  )


if __name__ == "__main__":
  main()
