"""Input number i of a seed: the same broken files whenever asked for."""

import collections
import dataclasses
import gc
import os
import shutil
import tempfile
import unicodedata  # which escapes in literals import
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from .guard import Outcome, watched
from .targets import Target, put, targets


@dataclasses.dataclass(frozen=True)
class Found:
  """A broken promise.

  Attributes:
    index: number of the input.
    target: name of the reader.
    fault: what was wrong.
  """

  index: int
  target: str
  fault: str


@dataclasses.dataclass
class Report:
  """What came of all inputs.

  Attributes:
    found: the broken promises.
    read: by reader, inputs that were read all the same.
    refused: by reader, inputs that were an error.
    seconds: by reader, of the processor.
    memory: by reader, the most bytes.
  """

  found: list[Found] = dataclasses.field(default_factory=list)
  read: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  refused: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  seconds: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  memory: dict[str, int] = dataclasses.field(default_factory=dict)

  def add(self, index: int, target: Target, outcome: Outcome) -> None:
    """Counts an outcome."""
    name = target.name
    counter = self.read if outcome.error is None else self.refused
    counter[name] += 1
    self.seconds[name] += outcome.seconds
    self.memory[name] = max(self.memory.get(name, 0), outcome.memory)
    self.found += [Found(index, name, fault) for fault in outcome.faults]


class Harness:
  """Makes inputs and has them read, one at a time, in one folder."""

  def __init__(self, only: str = "", seed: int = 0) -> None:
    """Writes the seeds, and has each read whole, so that all is imported.

    Args:
      only: the name of a reader; all of them if empty.
      seed: of the inputs.

    Raises:
      ValueError: there is no such reader, or a whole file is not read.
    """
    Image.init()
    assert unicodedata
    warnings.simplefilter("ignore")
    self.targets = [t for t in targets() if only in ("", t.name)]
    if not self.targets:
      raise ValueError(f"there is no reader {only!r}")
    self.seed = seed
    weights = np.array([target.weight for target in self.targets])
    self._shares = weights / weights.sum()
    # In memory where there is such a folder: a disk is slow to forget files.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    self._outer = tempfile.TemporaryDirectory(prefix="jaxgen-fuzz-", dir=memory)
    self.folder = Path(self._outer.name) / "inner"
    for target in self.targets:
      self._warm_up(target)
    gc.collect()
    gc.freeze()

  def _warm_up(self, target: Target) -> None:
    for whole in target.seeds:
      self._empty()
      put(self.folder, whole)
      try:
        target.read(self.folder)
      except Exception as error:
        if not _expected(target, error):
          raise ValueError(
            f"{target.name} does not read {', '.join(whole)}"
          ) from error

  def _empty(self) -> None:
    shutil.rmtree(self.folder, ignore_errors=True)
    self.folder.mkdir(parents=True)

  def write(self, index: int) -> Target:
    """Puts input number `index` into the folder; says whose it is."""
    rng = np.random.default_rng([self.seed, index])
    self._empty()
    # Should the process die, it is known of what.
    (self.folder.parent / "index").write_text(str(index))
    target = self.targets[int(rng.choice(len(self.targets), p=self._shares))]
    target.write(rng, self.folder)
    return target

  def run(self, indices: Iterable[int]) -> Report:
    """Has inputs read."""
    report = Report()
    for index in indices:
      target = self.write(index)
      read = lambda t=target: t.read(self.folder)
      outcome = watched(read, self.folder, target.errors, target.limits)
      report.add(index, target, outcome)
    return report

  def close(self) -> None:
    """Removes the folder."""
    gc.unfreeze()
    self._outer.cleanup()


def _expected(target: Target, error: Exception) -> bool:
  """Whether it is right that a reader refuses a whole file of its kind."""
  if target.name in ("read_images", "read_statistics"):
    return isinstance(error, ValueError)  # each reads some of the .npz files
  if target.name == "read_state":
    return "no state dictionary" in str(error)
  return target.name == "inception.load" and "missing" in str(error)
