"""The log, the curve's file, the progress line, and SIGTERM."""

import io
import json
import os
import re
import signal
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import training
from jaxgen.training import progress


class NoCheckpoints:
  """Stands in for `Checkpoints`."""

  def __init__(self, latest=None):
    self.latest = latest

  def wait(self):
    pass

  def latest_step(self):
    return self.latest


def metrics(loss, grad_norm=1.0):
  return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm)}


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_file_keeps_every_bit(tmp_path):
  path = tmp_path / "a" / "metrics.jsonl"
  values = np.random.default_rng(0).standard_normal(50).astype(np.float32)
  with training.Log(path, NoCheckpoints(), range(1, 51), every=1) as log:
    for step, value in enumerate(values, 1):
      log(step, metrics(value))
  lines = read(path)
  assert [line["step"] for line in lines] == list(range(1, 51))
  np.testing.assert_array_equal(
    np.float32([line["loss"] for line in lines]), values
  )


def test_log_writes_every_few_steps_and_waits_for_none(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with training.Log(path, NoCheckpoints(), range(1, 21), every=3) as log:
    for step in range(1, 10):
      log(step, metrics(step))
    assert [line["step"] for line in read(path)] == [3]
    log.flush()
    assert [line["step"] for line in read(path)] == [3, 6, 9]


def test_resumed_file_has_no_later_and_no_half_lines(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = training.MetricsWriter(path, 0)
  for step in (1, 2, 3, 4):
    writer.write(step, {"loss": 0.5})
  writer.close()
  with path.open("a") as file:
    file.write('{"step": 5, "lo')
  writer = training.MetricsWriter(path, 2)
  writer.write(3, {"loss": 0.25})
  writer.close()
  assert read(path) == [
    {"step": 1, "loss": 0.5},
    {"step": 2, "loss": 0.5},
    {"step": 3, "loss": 0.25},
  ]


def test_a_strange_file_is_refused(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text("hello\n")
  with pytest.raises(ValueError, match=r"line 1 of .* is not a metrics line"):
    training.MetricsWriter(path, 0)
  assert path.read_text() == "hello\n"


@pytest.mark.parametrize(
  ("bad", "latest", "message"),
  [
    (metrics(np.nan), 100, "loss is nan at step 3; .*: step 100"),
    (metrics(np.inf), None, "loss is inf at step 3; .*: none was saved"),
    (metrics(1.0, np.nan), 2, "grad_norm is nan at step 3"),
  ],
)
def test_divergence_stops_within_a_few_steps(tmp_path, bad, latest, message):
  path = tmp_path / "metrics.jsonl"
  reached = []

  def train(until):
    checkpoints = NoCheckpoints(latest)
    with training.Log(path, checkpoints, range(1, 100), every=1) as log:
      for step in range(1, until):
        reached.append(step)
        log(step, bad if step == 3 else metrics(1.0))

  with pytest.raises(FloatingPointError, match=message):
    train(100)
  assert reached[-1] < 10
  assert [line["step"] for line in read(path)] == [1, 2]
  with pytest.raises(FloatingPointError, match=message):
    train(4)  # the end of the run flushes


def test_a_step_that_diverges_is_told_with_its_examples(tmp_path):
  log = training.Log(
    tmp_path / "metrics.jsonl",
    NoCheckpoints(2),
    range(1, 9),
    examples=lambda step: range(step * 100, step * 100 + 66),
  )
  log(3, metrics(np.nan))
  shown = ", ".join(str(300 + i) for i in range(64))
  with pytest.raises(
    FloatingPointError,
    match=rf"nan at step 3 \(examples {shown} and 2 more of the data set\); l",
  ):
    log.flush()


def skippable(loss):
  return metrics(loss) | {"skipped": jnp.float32(not np.isfinite(loss))}


def test_skipped_steps_are_told_and_counted(tmp_path, caplog):
  """Also by a run that goes on after one, and by each that follows it."""
  path = tmp_path / "metrics.jsonl"
  losses = [1.0, np.nan, 1.0, np.inf, 1.0, np.nan, 1.0, 1.0]

  def train(start, stop):
    steps = range(start, stop)
    with training.Log(path, NoCheckpoints(), steps, every=4) as log:
      for step in steps:
        log(step, skippable(losses[step - 1]))

  train(1, 9)
  assert [
    (line["step"], line["skipped"], len(line)) for line in read(path)
  ] == [
    (2, 1, 2),
    (4, 2, 2),
    (6, 3, 2),
    (8, 3, 4),
  ]
  assert [record.getMessage() for record in caplog.records] == [
    "loss is nan at step 2; the step is skipped",
    "loss is inf at step 4; the step is skipped",
    "loss is nan at step 6; the step is skipped",
  ]
  whole = path.read_text()
  for start in (3, 5, 8):
    train(start, 9)
    assert path.read_text() == whole


def test_all_steps_cannot_be_skipped(tmp_path):
  """A good one starts the count again."""
  path = tmp_path / "metrics.jsonl"
  with training.Log(path, NoCheckpoints(7), range(1, 99)) as log:
    for step in range(1, 31):
      log(step, skippable(1.0 if step == 12 else np.nan))

  def go_on():
    with training.Log(path, NoCheckpoints(7), range(31, 99)) as log:
      for step in range(31, 99):
        log(step, skippable(np.nan))

  with pytest.raises(FloatingPointError, match="step 50, as at the 19 before"):
    go_on()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a Linux device")
def test_a_full_disk_is_told_with_its_file(tmp_path):
  """/dev/full has no room left for anything."""
  path = tmp_path / "metrics.jsonl"
  path.symlink_to("/dev/full")
  message = rf"cannot write {path}: \[Errno 28\] No space left on device$"

  def train():
    with training.Log(path, NoCheckpoints(), range(1, 9), every=1) as log:
      for step in range(1, 9):
        log(step, metrics(1.0))

  with pytest.raises(OSError, match=message):
    train()


def test_a_metrics_file_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(FileExistsError, match=r"cannot write .*file/metrics"):
    training.MetricsWriter(tmp_path / "file" / "metrics.jsonl", 0)


def test_plain_progress_lines(monkeypatch):
  clock = iter([0.0, 10.0, 20.0, 45.0, 50.0])
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  out = io.StringIO()
  shown = training.Progress(7205, seconds=30.0, out=out)
  for step, loss in ((1, 0.5), (11, 0.4), (21, 0.3), (46, 0.2), (7205, 0.1)):
    shown.update(step, loss)
  shown.close()
  assert out.getvalue().splitlines() == [
    "step 1/7205  loss 0.5",
    "step 46/7205  loss 0.2  1 steps/s  1:59:19 left",
    "step 7205/7205  loss 0.1  144 steps/s  0:00:00 left",
  ]


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_without_rich_gets_lines(monkeypatch):
  monkeypatch.setitem(sys.modules, "rich.progress", None)
  out = Terminal()
  shown = training.Progress(1, out=out)
  shown.update(1, 0.5)
  shown.close()
  assert out.getvalue() == "step 1/1  loss 0.5\n"


def test_a_terminal_with_rich_gets_a_bar(monkeypatch):
  pytest.importorskip("rich")
  monkeypatch.setenv("COLUMNS", "100")
  out = Terminal()
  shown = training.Progress(4, out=out)
  shown.update(4, 0.5)
  shown.close()
  assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in out.getvalue()
  assert re.search(r"step 4/4 +loss 0\.5", out.getvalue())


def test_sigterm_becomes_a_question(capsys):
  before = signal.getsignal(signal.SIGTERM)
  with training.stop_on_sigterm() as stop:
    assert not stop(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop(2)
    assert capsys.readouterr().out == ""
  assert "stopped by SIGTERM at step 2, saved" in capsys.readouterr().out
  assert signal.getsignal(signal.SIGTERM) is before
  with training.stop_on_sigterm() as stop:
    assert not stop(3)
  assert capsys.readouterr().out == ""


def test_no_parting_line_after_an_error(capsys):
  def fail():
    with training.stop_on_sigterm() as stop:
      os.kill(os.getpid(), signal.SIGTERM)
      stop(1)
      raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    fail()
  assert capsys.readouterr().out == ""
