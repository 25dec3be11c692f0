"""One side of a comparison, in its own process, run on request.

  python -m benchmarks.worker jaxgen|diffusers CASE_NAME 0|1

Prints the seconds of the first call (compilation), then, for every line read,
runs the case once and prints its seconds. The last argument: quick.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable

from benchmarks.cases import CASES, quick

SIDES = {"jaxgen": "benchmarks.ours", "diffusers": "benchmarks.peer"}


def main() -> None:
  """Serves runs until the input ends."""
  side, name, shrink = sys.argv[1:]
  case = quick(CASES[name]) if int(shrink) else CASES[name]
  module = importlib.import_module(SIDES[side])
  run = module.prepare(case)
  first = _seconds(run)
  _seconds(run)
  answer = {"first": first, "about": module.about()}
  print(json.dumps(answer), flush=True)
  for _ in sys.stdin:
    print(json.dumps(_seconds(run)), flush=True)


def _seconds(run: Callable[[], None]) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


if __name__ == "__main__":
  main()
