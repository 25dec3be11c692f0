"""Kills a training many times, and says where the kills fell.

    python -m tests.faults --kills 50 --seed 0

Each time the same command is started again. In the end its metrics and
parameters must be, bit for bit, those of a training that was never killed, and
on the way no finished checkpoint may be lost.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from .harness import Harness


def main() -> int:
  """Returns 0 if all was well; an AssertionError says what was not."""
  parser = argparse.ArgumentParser(
    prog="python -m tests.faults",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(prefix="jaxgen-faults-") as folder:
    harness = Harness(Path(folder), args.seed)
    print(
      f"uninterrupted: {harness.seconds_to_begin:.1f} s to the first step, "
      f"{harness.seconds:.1f} s from there",
      flush=True,
    )
    report = harness.kill_many(args.kills, lambda r: print(r, flush=True))
  for where, count in report.kills.most_common():
    print(f"{count:4}  {where}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
