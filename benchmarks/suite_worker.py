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
  ours = side == "jaxgen"
  load = importlib.import_module
  module = load(f"benchmarks.{suite}_{'ours' if ours else 'peer'}")
  run = module.prepare(case)
  first = _seconds(run)
  if ours:
    told = load("benchmarks.suite_jax").about(module.flops(case), case.dtype)
  else:
    told = load("benchmarks.suite_torch").about(case.peer)
  print(json.dumps({"first": first, "about": told}), flush=True)
  for _ in sys.stdin:
    run()  # the peer's turn has left its own data in the caches
    print(json.dumps(_seconds(run)), flush=True)


def _seconds(run: Callable[[], object]) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


if __name__ == "__main__":
  main()
