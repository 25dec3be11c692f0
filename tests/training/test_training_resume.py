"""A run killed at the worst moments ends as one that was never touched."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("toy_run.py")
NUM_STEPS = 16


@pytest.fixture(scope="module")
def environ(tmp_path_factory):
  """One device per process, and each program compiled only once."""
  cache = tmp_path_factory.mktemp("compiled")
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "1",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
  }


def start(workdir, environ, moment="", num_steps=NUM_STEPS):
  workdir.mkdir(exist_ok=True)
  return subprocess.Popen(
    [sys.executable, str(SCRIPT), str(workdir), str(num_steps), moment],
    env=environ,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(*args, **kwargs):
  """(exit code, stdout) of one process."""
  process = start(*args, **kwargs)
  out, err = process.communicate(timeout=120)
  assert process.returncode in (0, -signal.SIGKILL), err
  return process.returncode, out


def curve(workdir):
  return (workdir / "metrics.jsonl").read_text()


def steps_of(workdir):
  return sorted((p.name for p in (workdir / "checkpoints").iterdir()), key=int)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, environ):
  workdir = tmp_path_factory.mktemp("uninterrupted")
  assert run(workdir, environ)[0] == 0
  lines = [json.loads(line) for line in curve(workdir).splitlines()]
  assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
  return workdir


def test_killed_at_every_stage(tmp_path, environ, uninterrupted):
  # The checkpoints are those of steps 4, 8, 12 and 16; two are kept.
  for moment, left in (
    ("kill@3", []),  # before the first checkpoint
    ("writing@4", None),  # while its arrays are written
    ("unsealed@8", {"4", "8"}),  # 8 is whole but for its seal
    ("line@10", {"4", "8"}),  # in the middle of a line of metrics
    ("pruning@12", {"4", "8", "12"}),  # half of 4 is gone
  ):
    code, _ = run(tmp_path, environ, moment)
    assert code == -signal.SIGKILL, moment
    if left is not None:
      assert set(steps_of(tmp_path)) == set(left), moment
  code, out = run(tmp_path, environ)
  assert code == 0
  assert "step 13/16" in out
  assert curve(tmp_path) == curve(uninterrupted)
  assert steps_of(tmp_path) == ["12", "16"]
  # A finished run has nothing left to do.
  assert run(tmp_path, environ)[0] == 0
  assert curve(tmp_path) == curve(uninterrupted)


@pytest.mark.slow
def test_killed_at_a_random_time(tmp_path, environ, uninterrupted):
  """Up to 50 ms after the first checkpoint was begun."""
  process = start(tmp_path, environ)
  while process.poll() is None and not list(tmp_path.glob("checkpoints/*")):
    time.sleep(0.001)
  time.sleep(random.uniform(0.0, 0.05))
  process.kill()
  process.communicate()
  assert run(tmp_path, environ)[0] == 0
  assert curve(tmp_path) == curve(uninterrupted)


def test_sigterm_saves_and_the_same_command_continues(
  tmp_path, environ, uninterrupted
):
  code, out = run(tmp_path, environ, "term@6")
  assert code == 0
  message = "stopped by SIGTERM at step 6, saved; run the same command"
  assert out.splitlines()[-1].startswith(message)
  assert steps_of(tmp_path) == ["4", "6"]
  assert run(tmp_path, environ)[0] == 0
  assert curve(tmp_path) == curve(uninterrupted)


@pytest.mark.slow
def test_two_processes_train_as_one_and_stop_together(
  tmp_path, environ, uninterrupted
):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"

  def launch(moments, num_steps):
    processes = [
      start(
        tmp_path,
        environ
        | {
          "JAX_COORDINATOR_ADDRESS": address,
          "JAX_NUM_PROCESSES": "2",
          "JAX_PROCESS_ID": str(index),
        },
        moment,
        num_steps,
      )
      for index, moment in enumerate(moments)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    for process, (_, err) in zip(processes, results, strict=True):
      assert process.returncode == 0, err
    return [out for out, _ in results]

  # Only the second process hears SIGTERM; soon both stop, the first speaks.
  speaker, silent = launch(["", "term@5"], 10_000)
  assert "stopped" not in silent
  stopped = int(re.search(r"stopped by SIGTERM at step (\d+)", speaker)[1])
  assert steps_of(tmp_path)[-1] == str(stopped)
  launch(["", ""], stopped + 1)
  lines = [json.loads(line) for line in curve(tmp_path).splitlines()]
  assert [line["step"] for line in lines] == list(range(1, stopped + 2))
  expected = [json.loads(line) for line in curve(uninterrupted).splitlines()]
  shared = min(len(lines), NUM_STEPS)
  np.testing.assert_allclose(
    [line["loss"] for line in lines[:shared]],
    [line["loss"] for line in expected[:shared]],
    rtol=1e-5,
  )
