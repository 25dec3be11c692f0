"""Stable Diffusion 1 against diffusers: U-Net, decoder, text to image.

  python -m benchmarks.sd1            # reduced networks, for a CPU
  python -m benchmarks.sd1 --full     # 512x512 in bfloat16, for a GPU
  python -m benchmarks.sd1 --quick    # a minute, numbers without meaning

Both sides have the same random weights, texts and noise, each in a process of
its own; runs alternate. On a GPU the peer's networks are compiled, too
(torch.compile). Reported are also images per second, the share of the
device's peak that our side reaches (the peak measured as a large product of
matrices of the case's dtype, FLOPs as XLA counts them) and the most memory that
either side held: on a GPU what its library allocated, else the process. Needs
torch, diffusers and transformers.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks import ddpm
from benchmarks.sd1_cases import CASES, CPU_CASES, GPU_CASES

MODULE = "benchmarks.sd1_worker"


def main() -> None:
  """Measures, prints the table and saves it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--full", action="store_true")
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--repetitions", type=int, default=7)
  parser.add_argument("--wait", type=float, default=20.0)
  parser.add_argument("--only", default="", help="cases whose name holds this")
  parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/sd1"))
  args = parser.parse_args()
  args.devices = 1
  if args.quick:
    args.repetitions, args.wait = 2, 0.0
  # Both sides are on one GPU: JAX shall not take most of its memory at once.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  cases = GPU_CASES if args.full else CPU_CASES
  names = [name for name in cases if args.only in name]
  if not names:
    parser.error(f"no case holds {args.only!r}: {', '.join(cases)}")
  results = {}
  for name in names:
    results[name] = ddpm.compare(name, args, MODULE)
    print(row(name, results[name]), flush=True)
  report = {
    "machine": ddpm.machine(),
    "quick": args.quick,
    "results": results,
  }
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
  args.out.with_suffix(".md").write_text(table(report))
  print("\n" + table(report))


def table(report: dict[str, Any]) -> str:
  """The report in Markdown."""
  first = next(iter(report["results"].values()))["about"]
  lines = [
    f"{report['machine']}; {first['jaxgen']['text']}; "
    f"{first['diffusers']['text']}." + (" QUICK" if report["quick"] else ""),
    "",
    "| case | diffusers | jaxgen | ratio | pairs | images/s | of the peak "
    "| memory, theirs and ours | first call | busy |",
    "|---|---|---|---|---|---|---|---|---|---|",
    *(row(name, result) for name, result in report["results"].items()),
  ]
  return "\n".join(lines) + "\n"


def row(name: str, result: dict[str, Any]) -> str:
  """One line: medians, their ratio, the pairs' range, and what is ours."""
  theirs, ours = (result["seconds"][side] for side in ("diffusers", "jaxgen"))
  about = result["about"]["jaxgen"]
  pairs, seconds = ddpm.ratios(theirs, ours), statistics.median(ours)
  memory = [
    result["about"][side]["memory"] / 2**30 for side in ("diffusers", "jaxgen")
  ]
  return (
    f"| {name} | {statistics.median(theirs):.3f} s | {seconds:.3f} s "
    f"| {statistics.median(theirs) / seconds:.2f} "
    f"| {min(pairs):.2f} to {max(pairs):.2f} "
    f"| {CASES[name].batch / seconds:.3f} "
    f"| {about['flops'] / seconds / about['peak']:.0%} "
    f"| {memory[0]:.1f}, {memory[1]:.1f} GiB "
    f"| {result['first_call']['jaxgen']:.0f} s | {result['busy']:.0%} |"
  )


if __name__ == "__main__":
  main()
