"""One side of a comparison, in its own process, run on request.

  python -m benchmarks.worker jaxgen|diffusers CASE_NAME 0|1

Prints the seconds of the first call (compilation), then, for every line read,
runs the case and prints its seconds. A short run follows one that does not
count, as one step of training follows another: the peer's turn has left its
own data in the caches and the memory. The last argument: quick.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable

from benchmarks.cases import CASES, quick

SIDES = {"jaxgen": "benchmarks.ours", "diffusers": "benchmarks.peer"}
SHORT = 10.0  # seconds


def main() -> None:
  """Serves runs until the input ends."""
  side, name, shrink = sys.argv[1:]
  case = quick(CASES[name]) if int(shrink) else CASES[name]
  module = importlib.import_module(SIDES[side])
  run = module.prepare(case)
  first = _seconds(run)
  short = _seconds(run) < SHORT
  answer = {"first": first, "about": module.about()}
  print(json.dumps(answer), flush=True)
  for _ in sys.stdin:
    if short:
      run()
    print(json.dumps(_seconds(run)), flush=True)


def _seconds(run: Callable[[], None]) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


if __name__ == "__main__":
  main()
