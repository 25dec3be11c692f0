"""One side of a comparison of score SDEs; see `benchmarks.worker`.

python -m benchmarks.score_worker jaxgen|torch CASE_NAME 0|1
"""

import importlib
import json
import sys
import time
from collections.abc import Callable

from benchmarks.score_cases import CASES, quick

SIDES = {"jaxgen": "benchmarks.score_ours", "torch": "benchmarks.score_peer"}


def main() -> None:
  """Serves runs until the input ends."""
  side, name, shrink = sys.argv[1:]
  case = quick(CASES[name]) if int(shrink) else CASES[name]
  module = importlib.import_module(SIDES[side])
  run = module.prepare(case)
  first, evaluations = _seconds(run)
  about = (module.about(), evaluations)
  print(json.dumps({"first": first, "about": about}), flush=True)
  for _ in sys.stdin:
    print(json.dumps(_seconds(run)[0]), flush=True)


def _seconds(run: Callable[[], int]) -> tuple[float, int]:
  start = time.perf_counter()
  evaluations = run()
  return time.perf_counter() - start, evaluations


if __name__ == "__main__":
  main()
