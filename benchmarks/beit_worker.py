"""One side of a comparison of BEiT; see `benchmarks.worker`.

python -m benchmarks.beit_worker jaxgen|transformers|timm CASE_NAME 0|1
"""

import importlib
import json
import sys
import time
from collections.abc import Callable

from benchmarks.beit_cases import CASES, quick


def main() -> None:
  """Serves runs until the input ends."""
  side, name, shrink = sys.argv[1:]
  case = quick(CASES[name]) if int(shrink) else CASES[name]
  ours = "ours" if side == "jaxgen" else "peer"
  module = importlib.import_module(f"benchmarks.beit_{ours}")
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
