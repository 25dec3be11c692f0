"""Starts, kills and starts again; looks what is left; compares the ends."""

import collections
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxgen import training
from jaxgen.training.seal import damage, is_sealed

ROOT = Path(__file__).parents[2]
RUN, STEPS = "tests.faults.run", 24
KINDS = {"file": 6, "time": 3, "arrays": 2, "line": 1}
# Operations on files: what they look like, and how many there are at most in a
# training that is not killed.
OPERATIONS = {
  "an operation of any kind": ("", 500),
  "a checkpoint's folder is made": (r"mkdir checkpoints/\d+$", 6),
  "its experiment or position is written": ("open .*(experiment|iterator)", 12),
  "orbax makes, writes or renames": ("(mkdir|open|rename) .*arrays", 150),
  "a seal is written": ("open .*SHA256SUMS", 6),
  "a seal is put in place": ("rename .*SHA256SUMS", 6),
  "a seal is removed": ("remove .*SHA256SUMS", 8),
  "an old checkpoint is removed": (
    r"(remove|rmdir) checkpoints/\d+/arrays/",
    200,
  ),
}
# Seconds after which a silent process of several counts as lost.
HEARTBEAT = 10
# Kills of one training before it is left to end.
PATIENCE = 8


@dataclasses.dataclass
class Report:
  """What came of all kills.

  Attributes:
    kills: by where they fell.
    starts: of processes, those that ended included.
    ends: trainings that ended, and ended as the one that was never killed.
    seconds: of it all.
  """

  kills: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  starts: int = 0
  ends: int = 0
  seconds: float = 0.0

  def __str__(self) -> str:
    return (
      f"{self.kills.total()} kills, {self.starts} starts, {self.ends} "
      f"trainings ended as if never killed; {self.seconds:.0f} s"
    )


class Harness:
  """Trainings in one folder, and the one that was never killed."""

  def __init__(self, folder: Path, seed: int = 0, processes: int = 1) -> None:
    """Runs the uninterrupted training.

    Args:
      folder: for all files.
      seed: of when and where to kill.
      processes: of a training.
    """
    self.folder = folder
    self._rng = random.Random(seed)
    self._processes = processes
    self._environ = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "1",
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    folder.mkdir(parents=True, exist_ok=True)
    self.whole = folder / "whole"
    self.run(self.whole)
    self.seconds_to_begin, self.seconds = 0.0, 0.0
    if processes == 1:
      self._measure(folder / "measured")

  def start(
    self, workdir: Path, prefix: Sequence[str] = (), **environ: str
  ) -> subprocess.Popen:
    """Starts one process of a training, by a command before its own."""
    return subprocess.Popen(
      [*prefix, sys.executable, "-m", RUN, str(workdir), str(STEPS)],
      env=self._environ | environ,
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def kill_many(
    self, kills: int, progress: Callable[[Report], None] = lambda _: None
  ) -> Report:
    """Kills trainings so many times, and checks what they leave.

    Args:
      kills: how many.
      progress: called after every training.

    Raises:
      AssertionError: a promise was broken.
    """
    report = Report()
    begun = time.monotonic()
    number = 0
    while report.kills.total() < kills:
      workdir = self.folder / f"run{number}"
      number += 1
      for _ in range(PATIENCE):
        if report.kills.total() == kills:
          break
        report.starts += 1
        where = self.kill_once(workdir)
        if where is None:
          break
        report.kills[where] += 1
      report.starts += 1
      self.run(workdir)
      self.check_end(workdir)
      report.ends += 1
      shutil.rmtree(workdir)
      report.seconds = time.monotonic() - begun
      progress(report)
    return report

  def kill_once(self, workdir: Path) -> str | None:
    """Starts a training and kills it; says where, None if it ended before.

    Raises:
      AssertionError: a finished checkpoint was lost, or is damaged.
    """
    before = checkpoints(workdir)
    kinds, weights = zip(*KINDS.items(), strict=True)
    kind = self._rng.choices(kinds, weights)[0]
    name = self._rng.choice(list(OPERATIONS))
    like, count = OPERATIONS[name]
    fault = {
      "file": f"file:{self._rng.randint(1, count)}:{like}",
      "time": "none:0",
      "arrays": f"arrays:{self._rng.uniform(0, 0.05):.4f}",
      "line": f"line:{self._rng.randint(1, STEPS // 2)}",
    }[kind]
    log = self._log(workdir)
    log.unlink(missing_ok=True)
    process = self.start(workdir, FAULT=fault, FAULT_LOG=str(log))
    if kind == "time":
      wait_for(process, log)
      time.sleep(self._rng.uniform(0, self.seconds))
      process.kill()
    _, err = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err
    after = checkpoints(workdir)
    assert max(after, default=0) >= max(before, default=0), "one was lost"
    assert not any(after.values()), after
    if process.returncode == 0:
      return None
    if kind == "file":
      return f"before {name}"
    return f"{kind}: {_where(workdir)}"

  def check_end(self, workdir: Path) -> None:
    """Raises unless it ended as the uninterrupted training."""
    found, wanted = (
      (path / "metrics.jsonl").read_text() for path in (workdir, self.whole)
    )
    assert found == wanted
    steps = [json.loads(line)["step"] for line in found.splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert checkpoints(workdir) == checkpoints(self.whole)
    for which in ("params", "ema"):
      jax.tree.map(
        np.testing.assert_array_equal,
        *(
          training.restore_params(path / "checkpoints", which)
          for path in (workdir, self.whole)
        ),
      )

  def launch(self, workdir: Path) -> list[subprocess.Popen]:
    """Starts all processes of a training."""
    environ = cluster(self._processes) if self._processes > 1 else [{}]
    return [self.start(workdir, **each) for each in environ]

  def run(self, workdir: Path) -> None:
    """Runs a training to its end."""
    for process in self.launch(workdir):
      _, err = process.communicate(timeout=300)
      assert process.returncode == 0, err

  def _measure(self, workdir: Path) -> None:
    """Takes the time of the uninterrupted training."""
    start = time.monotonic()
    log = self._log(workdir)
    process = self.start(workdir, FAULT="none:0", FAULT_LOG=str(log))
    wait_for(process, workdir / "metrics.jsonl")
    begun = time.monotonic()
    process.communicate()
    self.seconds = time.monotonic() - begun
    self.seconds_to_begin = begun - start
    self.check_end(workdir)

  def _log(self, workdir: Path) -> Path:
    return self.folder / f"{workdir.name}.log"


def cluster(count: int, heartbeat: int = HEARTBEAT) -> list[dict[str, str]]:
  """The environments of so many processes that find each other here."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  return [
    {
      "JAX_COORDINATOR_ADDRESS": address,
      "JAX_NUM_PROCESSES": str(count),
      "JAX_PROCESS_ID": str(index),
      "HEARTBEAT": str(heartbeat),
    }
    for index in range(count)
  ]


def checkpoints(workdir: Path) -> dict[int, str | None]:
  """The finished checkpoints, and what is wrong with each."""
  folder = workdir / "checkpoints"
  numbered = [path for path in folder.glob("*") if path.name.isdigit()]
  return {int(p.name): damage(p) for p in numbered if is_sealed(p)}


def wait_for(process: subprocess.Popen, path: Path, lines: int = 0) -> None:
  """Returns when there is a file with so many lines, or the process ended."""
  while process.poll() is None:
    if path.exists() and path.read_text().count("\n") >= lines:
      return
    time.sleep(0.001)


def _where(workdir: Path) -> str:
  """Where a kill fell, in a few words."""
  numbered = (workdir / "checkpoints").glob("*")
  if any(p.name.isdigit() and not is_sealed(p) for p in numbered):
    return "while a checkpoint is written or removed"
  return "between checkpoints"
