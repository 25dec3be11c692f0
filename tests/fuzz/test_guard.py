"""The watch itself: readers that break a promise are caught."""

import contextlib
import os
import pickle
import re
import socket
import subprocess

import numpy as np
import pytest

from .guard import MEGABYTE, Limits, watched


def outcome(tmp_path, read, errors=(ValueError,), **limits):
  folder = tmp_path / "inner"
  folder.mkdir(exist_ok=True)
  (folder / "x").write_bytes(b"12345")
  return watched(read, folder, errors, Limits(**limits))


def fails(error):
  def read():
    raise error

  return read


def test_honest_readers_pass(tmp_path):
  found = outcome(tmp_path, (tmp_path / "inner/x").read_bytes)
  assert (found.error, found.faults) == (None, [])
  found = outcome(tmp_path, fails(ValueError("x holds no image")))
  assert isinstance(found.error, ValueError)
  assert found.faults == []


@pytest.mark.parametrize(
  ("read", "fault"),
  [
    (lambda: os.system("true"), r"os\.system"),
    (lambda: subprocess.run(["true"], check=True), r"subprocess\.Popen"),
    (lambda: eval("1 + 1"), "compile"),
    (lambda: exec(compile("1", "x", "exec")), "compile"),
    (lambda: pickle.loads(pickle.dumps(np.zeros(1))), r"pickle\.find_class"),
    (lambda: socket.getaddrinfo(b"127.0.0.1", 1), r"socket\.getaddrinfo"),
    (lambda: __import__("this"), "import"),
    (lambda: open("/etc/hostname").close(), "opened /etc/hostname"),
    (lambda: open("/tmp/jaxgen-fuzz-x", "w").close(), "opened /tmp"),
    (lambda: os.mkdir("/tmp/jaxgen-fuzz-x"), r"os\.mkdir"),
    (lambda: os.symlink("/etc", "y"), r"os\.symlink"),
    (fails(KeyError("x")), "raised KeyError"),
    (fails(ValueError("two\nlines")), "no sentence"),
    (fails(ValueError("")), "no sentence"),
    (fails(ValueError("x" * 2000)), "a message of 2000"),
  ],
)
def test_others_do_not(tmp_path, read, fault):
  found = outcome(tmp_path, read)
  assert any(re.match(fault, f) for f in found.faults), found.faults
  assert not os.path.exists("/tmp/jaxgen-fuzz-x")


@pytest.mark.skipif(
  not os.path.exists("/proc/self/clear_refs"), reason="Linux counts memory"
)
def test_memory_is_counted_and_bounded(tmp_path):
  found = outcome(tmp_path, lambda: np.ones(100 * MEGABYTE, np.uint8).sum())
  assert re.match(r"took 1\d\d MB", found.faults[0])
  found = outcome(tmp_path, lambda: np.ones(40 * MEGABYTE, np.uint8).sum())
  assert found.faults == []

  def reader():
    try:
      np.zeros(2**40)
    except MemoryError as error:
      raise ValueError("too large") from error

  found = outcome(tmp_path, reader)
  assert re.match("asked for too much memory", found.faults[0])


def test_time_is_bounded(tmp_path):
  def reader():
    while True:
      with contextlib.suppress(Exception):
        sum(range(1000))

  found = outcome(tmp_path, reader, seconds=0.1)
  assert found.faults[0] == "had to be stopped"
  assert found.faults[1].startswith("took")


def test_folders_must_stay_as_they_are(tmp_path):
  found = outcome(tmp_path, (tmp_path / "inner/x").unlink)
  assert found.faults == ["changed its folder"]
