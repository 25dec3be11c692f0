"""Trainings that are killed, starved of disk, or left alone by their peers.

`python -m tests.faults` kills more of them. What the default suite has of this
is in tests/training/test_training_resume.py.
"""

import signal
import time

import pytest

from .harness import HEARTBEAT, STEPS, Harness, checkpoints, wait_for

pytestmark = pytest.mark.slow
# Seconds within which a process says that it has lost another that is dead, and
# one that hangs: its heartbeat is missed.
DEAD, HANGING = 20, 4 * HEARTBEAT
# Without the first JAX ends the others; without another we do.
TOLD = (
  "the JAX distributed service detected fatal errors",
  "error: process 0 of 2 cannot go on, perhaps because another is lost; run",
)


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


@pytest.mark.parametrize("blocks", [8, 128])
def test_a_quota(alone, tmp_path, blocks):
  """No file may have more of 1024 bytes: orbax fails, sooner or later."""
  workdir = tmp_path / "run"
  limited = ["bash", "-c", f'trap "" XFSZ; ulimit -f {blocks}; exec "$@"', "-"]
  # Compiled programs are not what the quota is about.
  process = alone.start(workdir, limited, JAX_ENABLE_COMPILATION_CACHE="0")
  _, err = process.communicate(timeout=120)
  assert process.returncode == 1, err
  # Orbax's threads may have the last word, of their event loop that is closed.
  told = [line for line in err.splitlines() if line.startswith("error: ")]
  assert len(told) == 1
  assert told[0].startswith("error: could not save step 4 in ")
  assert "ERROR:absl" not in err
  assert not checkpoints(workdir)
  alone.run(workdir)
  alone.check_end(workdir)


def begun(pair, workdir):
  """The processes of a training that has made some steps."""
  processes = pair.launch(workdir)
  wait_for(processes[0], workdir / "metrics.jsonl", STEPS // 3)
  return processes


def goes_on(pair, workdir):
  """No checkpoint is damaged; the same command, twice, ends as it should."""
  found = checkpoints(workdir)
  assert not any(found.values())
  assert max(found, default=0) < STEPS
  pair.run(workdir)
  pair.check_end(workdir)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_is_killed(pair, tmp_path, victim):
  workdir = tmp_path / "run"
  processes = begun(pair, workdir)
  processes[victim].kill()
  start = time.monotonic()
  _, err = processes[1 - victim].communicate(timeout=DEAD)
  print(f"the other ended after {time.monotonic() - start:.1f} s: {err}")
  assert processes[1 - victim].returncode != 0
  assert TOLD[victim] in err
  processes[victim].communicate()
  goes_on(pair, workdir)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_hangs(pair, tmp_path, victim):
  """As where its machine is lost, and no connection is closed."""
  workdir = tmp_path / "run"
  processes = begun(pair, workdir)
  processes[victim].send_signal(signal.SIGSTOP)
  start = time.monotonic()
  try:
    _, err = processes[1 - victim].communicate(timeout=HANGING)
    print(f"the other ended after {time.monotonic() - start:.1f} s: {err}")
    assert processes[1 - victim].returncode != 0
    assert TOLD[0] in err
  finally:
    for process in processes:
      process.kill()
      process.communicate()
  goes_on(pair, workdir)
