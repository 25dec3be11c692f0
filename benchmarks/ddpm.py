"""DDPM's U-Net, training, sampling and FID's features against PyTorch.

  python -m benchmarks.ddpm            # all cores to each side, in turn
  python -m benchmarks.ddpm --quick    # a minute, numbers without meaning

Each side lives in its own process; runs alternate, so that whatever else the
machine does falls on both. Both ask the C library for huge pages: in small ones
up to a quarter of a training step goes into the kernel. Needs
`pip install 'jaxgen[parity]'`; FID's features are left out without pytorch-fid.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
IDLE = 0.1  # a machine busier than this share is waited for


def main() -> None:
  """Measures, prints the table and saves it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--repetitions", type=int, default=7)
  parser.add_argument(
    "--wait",
    type=float,
    default=20.0,
    help="seconds, for an idle machine before a run",
  )
  parser.add_argument(
    "--devices",
    type=int,
    default=1,
    help="virtual CPU devices that share the batch, on our side",
  )
  parser.add_argument("--only", default="", help="cases whose name holds this")
  parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/ddpm"))
  args = parser.parse_args()
  if args.quick:
    args.repetitions, args.wait = 2, 0.0
  names = [name for name in CASES if args.only in name]
  if not names:
    parser.error(f"no case holds {args.only!r}: {', '.join(CASES)}")
  results = {}
  for name in names:
    peer = "pytorch_fid" if CASES[name].kind == "inception" else "diffusers"
    if missing := problem(peer):
      print(f"left out: {name} ({missing})")
      continue
    results[name] = compare(name, args)
    print(row(name, results[name]), flush=True)
  if not results:
    return
  report = {
    "machine": machine(),
    "devices": args.devices,
    "quick": args.quick,
    "results": results,
  }
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
  args.out.with_suffix(".md").write_text(table(report))
  print("\n" + table(report))


def problem(package: str) -> str:
  """Why a peer's package cannot be imported; "" if it can."""
  try:
    importlib.import_module(package)
  except (ImportError, RuntimeError) as error:
    return str(error)
  return ""


def compare(
  name: str,
  args: argparse.Namespace,
  module: str = "benchmarks.worker",
  peer: str = "diffusers",
) -> dict[str, Any]:
  """Seconds of both sides on one case, run in turn.

  Args:
    name: of the case.
    args: of the command line.
    module: of the workers, with what they are told first.
    peer: the other side.
  """
  workers = {side: start(side, name, args, module) for side in (peer, "jaxgen")}
  ready = {side: ask(worker) for side, worker in workers.items()}
  seconds: dict[str, list[float]] = {side: [] for side in workers}
  busy = []
  for _ in range(args.repetitions):
    for side, worker in workers.items():
      busy.append(wait_until_idle(args.wait))
      worker.stdin.write("\n")
      worker.stdin.flush()
      seconds[side].append(ask(worker))
  for worker in workers.values():
    worker.stdin.close()
    worker.wait()
  return {
    "seconds": seconds,
    "first_call": {side: answer["first"] for side, answer in ready.items()},
    "about": {side: answer["about"] for side, answer in ready.items()},
    "busy": max(busy),
  }


def start(side: str, name: str, args: argparse.Namespace, module: str) -> Any:
  """A worker of one side, which prepares itself."""
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      *module.split(),
      side,
      name,
      str(int(args.quick)),
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | HUGE_PAGES | {"JAX_NUM_CPU_DEVICES": str(args.devices)},
  )


def ask(worker: Any) -> Any:
  """The worker's next answer.

  Raises:
    RuntimeError: if it has died.
  """
  line = worker.stdout.readline()
  if not line:
    raise RuntimeError(f"The worker {' '.join(worker.args[2:])} has died.")
  return json.loads(line)


def wait_until_idle(limit: float) -> float:
  """Waits up to `limit` seconds; the busy share of the CPUs at the end."""
  end = time.monotonic() + limit
  while (share := busy_share()) > IDLE and time.monotonic() < end:
    pass
  return share


def busy_share(seconds: float = 0.3) -> float:
  """The share of CPU time in use just now; 0 where /proc/stat is missing."""
  stat = Path("/proc/stat")
  if not stat.exists():
    return 0.0

  def read():
    ticks = [int(n) for n in stat.read_text().split("\n")[0].split()[1:8]]
    return sum(ticks), ticks[3] + ticks[4]

  total, idle = read()
  time.sleep(seconds)
  later, later_idle = read()
  return 1 - (later_idle - idle) / max(later - total, 1)


def table(report: dict[str, Any]) -> str:
  """The report in Markdown."""
  first = next(iter(report["results"].values()))
  lines = [
    f"{report['machine']}; {first['about']['jaxgen']}; "
    f"{first['about']['diffusers']}." + (" QUICK" if report["quick"] else ""),
    "",
    "| case | PyTorch | jaxgen | ratio | pairs | first call | busy |",
    "|---|---|---|---|---|---|---|",
    *(row(name, result) for name, result in report["results"].items()),
  ]
  return "\n".join(lines) + "\n"


def row(name: str, result: dict[str, Any]) -> str:
  """One line: medians, their ratio, and the range of the ratios of pairs."""
  theirs, ours = (result["seconds"][s] for s in ("diffusers", "jaxgen"))
  pairs = ratios(theirs, ours)
  median = statistics.median
  return (
    f"| {name} | {median(theirs):.3f} s | {median(ours):.3f} s "
    f"| {median(theirs) / median(ours):.2f} "
    f"| {min(pairs):.2f} to {max(pairs):.2f} "
    f"| {result['first_call']['jaxgen']:.0f} s | {result['busy']:.0%} |"
  )


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
  """Speed of each of our runs against the peer's run before it."""
  return [a / b for a, b in zip(theirs, ours, strict=True)]


def machine() -> str:
  """The processor, its cores and the commit."""
  cpuinfo = Path("/proc/cpuinfo")
  model = platform.processor() or platform.machine()
  if cpuinfo.exists():
    fields = [line.split(":") for line in cpuinfo.read_text().splitlines()]
    model = next(
      (f[1].strip() for f in fields if f[0].strip() == "model name"), model
    )
  commit = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"],
    capture_output=True,
    text=True,
    check=False,
  ).stdout.strip()
  return f"{model}, {os.cpu_count()} cores, commit {commit or 'unknown'}"


if __name__ == "__main__":
  main()
