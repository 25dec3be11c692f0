"""One side of a comparison of a suite; see `benchmarks.suite`.

python -m benchmarks.suite_worker SUITE jaxgen|PEER CASE_NAME 0|1

As `benchmarks.worker`, but every run follows one that does not count.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable


def main() -> None:
  """Serves runs until the input ends."""
  suite, side, name, shrink = sys.argv[1:]
  cases = importlib.import_module(f"benchmarks.{suite}_cases")
  case = cases.CASES[name]
  case = cases.quick(case) if int(shrink) else case
  ours = "ours" if side == "jaxgen" else "peer"
  module = importlib.import_module(f"benchmarks.{suite}_{ours}")
  run = module.prepare(case)
  answer = {"first": _seconds(run), "about": module.about(case)}
  print(json.dumps(answer), flush=True)
  for _ in sys.stdin:
    run()  # the peer's turn has left its own data in the caches
    print(json.dumps(_seconds(run)), flush=True)


def _seconds(run: Callable[[], object]) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


if __name__ == "__main__":
  main()
