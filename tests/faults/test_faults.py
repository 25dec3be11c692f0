"""Trainings that are killed, starved of disk, or left alone by their peers.

`python -m tests.faults` kills more of them. What the default suite has of this
is in tests/training/test_training_resume.py.
"""

import json
import os
import random
import resource
import signal
import time

import numpy as np
import pytest

from .harness import STEPS, Harness, checkpoints, cluster

pytestmark = pytest.mark.slow
# Within it a process says that it has lost another, where that one is dead.
DEAD = 20
# And where it hangs: its heartbeat's timeout here, and as long again.
HANGING, HEARTBEAT = 45, 10


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  return Harness(tmp_path_factory.mktemp("alone"), seed=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  return Harness(tmp_path_factory.mktemp("pair"), seed=1, processes=2)


def test_five_kills(alone):
  report = alone.kill_many(5)
  assert report.kills.total() == 5
  assert report.ends >= 1


@pytest.mark.parametrize("limit", [2**14, 2**17])
def test_a_quota(alone, tmp_path, limit):
  """No file may grow beyond it: a metrics line fails, or orbax's arrays do."""
  workdir = tmp_path / "run"

  def restrict():
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

  process = alone.start(workdir, preexec_fn=restrict)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 1, err
  assert err.splitlines()[-1].startswith("error: could not save step 4 in ")
  assert "Traceback" not in err
  assert not checkpoints(workdir)
  _, err = alone.start(workdir).communicate(timeout=120)
  alone.check_end(workdir)


def launch(pair, workdir, wait_for=STEPS // 3):
  """Two processes, and the number of the step that they have made."""
  processes = [pair.start(workdir, **each) for each in cluster(2, HEARTBEAT)]
  path = workdir / "metrics.jsonl"
  while all(p.poll() is None for p in processes):
    if path.exists() and path.read_text().count("\n") >= wait_for:
      break
    time.sleep(0.001)
  return processes


@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_is_killed(pair, tmp_path, victim):
  """The other says so and ends; both go on where the last checkpoint is."""
  workdir = tmp_path / "run"
  processes = launch(pair, workdir)
  processes[victim].kill()
  start = time.monotonic()
  _, err = processes[1 - victim].communicate(timeout=DEAD)
  seconds = time.monotonic() - start
  print(f"the other ended after {seconds:.1f} s: {err[-500:]}")
  assert processes[1 - victim].returncode != 0
  assert err
  before = max(checkpoints(workdir))
  assert not any(checkpoints(workdir).values())
  assert before < STEPS
  for process in [
    pair.start(workdir, **each) for each in cluster(2, HEARTBEAT)
  ]:
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
  pair.check_end(workdir)
