"""Tries broken and hostile files on every reader.

  python -m tests.fuzz --n 100000 --seed 0
  python -m tests.fuzz --only 4711 --keep /tmp/found

Each input must be read, or refused with an error of a documented type in one
sentence, within limits of memory and time; nothing may be executed, imported
or written, and nothing outside the input's folder opened. Prints what broke a
promise, with the number of the input, and exits with 1 if anything did.
"""

import argparse
import faulthandler
import logging
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

from .harness import Harness, Report

BLOCK = 500


def main() -> int:
  parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
  parser.add_argument("--n", type=int, default=2000, help="inputs")
  parser.add_argument("--start", type=int, default=0, help="first input")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--target", default="", help="a single reader")
  parser.add_argument("--only", type=int, help="a single input")
  parser.add_argument("--keep", help="a folder for the files of --only")
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  faulthandler.enable()
  logging.disable()
  harness = Harness(args.target, args.seed)
  if args.only is not None:
    report = harness.run([args.only])
    if args.keep:
      shutil.copytree(harness.folder, args.keep, symlinks=True)
    print(report)
    return bool(report.found)
  print(f"inputs in {harness.folder.parent}, their number in index")
  whole = Report()
  start = time.monotonic()
  for first in range(args.start, args.start + args.n, BLOCK):
    last = min(first + BLOCK, args.start + args.n)
    # What no signal stops, such as a hash of 2^60 parts, ends here.
    faulthandler.dump_traceback_later(900, exit=True)
    report = harness.run(range(first, last))
    for found in report.found:
      print(f"{found.index} {found.target}: {found.fault}", flush=True)
    whole.found += report.found
    for counter in ("read", "refused", "seconds"):
      getattr(whole, counter).update(getattr(report, counter))
    for name, memory in report.memory.items():
      whole.memory[name] = max(memory, whole.memory.get(name, 0))
    seconds = time.monotonic() - start
    print(f"{last - args.start} inputs, {seconds:.0f} s", flush=True)
  for name in sorted(whole.seconds):
    print(
      f"{name:18} read {whole.read[name]:6} refused {whole.refused[name]:6} "
      f"{whole.seconds[name]:7.1f} s {whole.memory[name] / 2**20:6.0f} MB"
    )
  print(f"{len(whole.found)} broken promises")
  harness.close()
  return bool(whole.found)


if __name__ == "__main__":
  sys.exit(main())
