"""One side of a comparison of Stable Diffusion 1; see `benchmarks.worker`.

python -m benchmarks.sd1_worker jaxgen|diffusers CASE_NAME 0|1
"""

import importlib
import json
import sys
import time
from collections.abc import Callable

from benchmarks.sd1_cases import CASES, quick

SIDES = {"jaxgen": "benchmarks.sd1_ours", "diffusers": "benchmarks.sd1_peer"}


def main() -> None:
  """Serves runs until the input ends."""
  side, name, shrink = sys.argv[1:]
  case = quick(CASES[name]) if int(shrink) else CASES[name]
  module = importlib.import_module(SIDES[side])
  run = module.prepare(case)
  answer = {"first": _seconds(run), "about": module.about(case)}
  print(json.dumps(answer), flush=True)
  for _ in sys.stdin:
    print(json.dumps(_seconds(run)), flush=True)


def _seconds(run: Callable[[], object]) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


if __name__ == "__main__":
  main()
