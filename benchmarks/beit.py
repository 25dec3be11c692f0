"""BEiT against transformers and timm: a forward pass, a pre-training step.

  python -m benchmarks.beit            # BEiT-B in float32, for a CPU
  python -m benchmarks.beit --full     # BEiT-B and -L in bfloat16, for a GPU
  python -m benchmarks.beit --quick    # a minute, numbers without meaning

Both sides have the same random weights, images, masks and visual tokens, each
in a process of its own; runs alternate. A step of pre-training is the forward
and backward pass, clipping and AdamW; ours also averages the parameters. In
bfloat16 the peer's forward pass has its weights in bfloat16 and its training is
autocast; ours keeps parameters in float32 in both.
Reported are also images per second, the share of the device's peak that our
side reaches (the peak measured as a large product of matrices of the case's
dtype, FLOPs as XLA counts them) and the most memory that either side held: on a
GPU what its library allocated, else the process. Needs torch and transformers;
cases of timm are left out where it cannot be imported.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks import ddpm
from benchmarks.beit_cases import CASES, CPU_CASES, GPU_CASES

MODULE = "benchmarks.beit_worker"


def main() -> None:
  """Measures, prints the table and saves it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--full", action="store_true")
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--repetitions", type=int, default=7)
  parser.add_argument("--wait", type=float, default=20.0)
  parser.add_argument("--only", default="", help="cases whose name holds this")
  parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/beit"))
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
    peer = CASES[name].peer
    if missing := ddpm.problem(peer):
      print(f"left out: {name} ({missing})")
      continue
    results[name] = ddpm.compare(name, args, MODULE, peer)
    print(row(name, results[name]), flush=True)
  if not results:
    return
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
  texts = [
    result["about"][side]["text"]
    for name, result in report["results"].items()
    for side in ("jaxgen", CASES[name].peer)
  ]
  lines = [
    f"{report['machine']}; {'; '.join(dict.fromkeys(texts))}."
    + (" QUICK" if report["quick"] else ""),
    "",
    "| case | peer | jaxgen | ratio | pairs | images/s | of the peak "
    "| memory, theirs and ours | first call | busy |",
    "|---|---|---|---|---|---|---|---|---|---|",
    *(row(name, result) for name, result in report["results"].items()),
  ]
  return "\n".join(lines) + "\n"


def row(name: str, result: dict[str, Any]) -> str:
  """One line: medians, their ratio, the pairs' range, and what is ours."""
  case = CASES[name]
  theirs, ours = (result["seconds"][side] for side in (case.peer, "jaxgen"))
  about = result["about"]["jaxgen"]
  pairs, seconds = ddpm.ratios(theirs, ours), statistics.median(ours)
  memory = [
    result["about"][side]["memory"] / 2**30 for side in (case.peer, "jaxgen")
  ]
  return (
    f"| {name} | {statistics.median(theirs):.3f} s ({case.peer}) "
    f"| {seconds:.3f} s | {statistics.median(theirs) / seconds:.2f} "
    f"| {min(pairs):.2f} to {max(pairs):.2f} | {case.batch / seconds:.2f} "
    f"| {about['flops'] / seconds / about['peak']:.0%} "
    f"| {memory[0]:.1f}, {memory[1]:.1f} GiB "
    f"| {result['first_call']['jaxgen']:.0f} s | {result['busy']:.0%} |"
  )


if __name__ == "__main__":
  main()
