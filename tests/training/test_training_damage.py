"""Whatever file of a checkpoint is damaged, the one before counts."""

import os
import shutil

import jax
import jax.numpy as jnp
import pytest
import toy_run

from jaxgen import training
from jaxgen.training.seal import SEAL, damage


def tiny(step=0):
  """A state of a few numbers, at a step."""
  mesh = training.make_mesh(devices=jax.devices()[:1])
  params = {"w": jnp.zeros((2, 3))}
  state = training.init_state(params, training.adam(0.1), jax.random.key(7))
  return training.shard_state(mesh, state.replace(step=jnp.int32(step)))


def cut(path):
  """All but the last byte."""
  os.truncate(path, path.stat().st_size - 1)


def flip(path):
  """One bit, in the middle."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def empty(path):
  """No byte is left."""
  os.truncate(path, 0)


def unreadable(path):
  """Reading it fails, as from a bad disk: this one's first byte is no page."""
  path.unlink()
  path.symlink_to("/proc/self/mem")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Steps 3 and 6."""
  directory = tmp_path_factory.mktemp("whole")
  with training.Checkpoints(directory, toy_run.EXPERIMENT) as checkpoints:
    for step in (3, 6):
      checkpoints.save(tiny(step), toy_run.Batches())
  return directory


@pytest.fixture
def saved(whole, tmp_path):
  """A copy, to be harmed."""
  return shutil.copytree(whole, tmp_path / "saved")


def test_every_harm_to_every_file_is_seen(saved):
  files = [path for path in (saved / "6").rglob("*") if path.is_file()]
  names = {path.name for path in files}
  assert {SEAL, "experiment.json", "iterator_0-of-1.json"} < names
  for path in files:
    content = path.read_bytes()
    for harm in (cut, flip, empty, unreadable):
      if not content and harm is not unreadable:
        continue
      harm(path)
      told = damage(saved / "6")
      assert told, (path, harm.__name__)
      assert "\n" not in told
      path.unlink()
      path.write_bytes(content)
    if path.name != SEAL:
      path.unlink()
      assert damage(saved / "6").endswith("is missing")
      path.write_bytes(content)
  assert damage(saved / "6") is None
  (saved / "6" / "other").write_text("")
  assert damage(saved / "6") == f"{SEAL} does not name 'other'"


def test_a_seal_without_its_last_lines(saved):
  """It would vouch for less than there is, and no checksum would differ."""
  seal = saved / "6" / SEAL
  lines = seal.read_text().splitlines(keepends=True)
  seal.write_text("".join(lines[:-1]))
  assert "does not name" in damage(saved / "6")


@pytest.mark.parametrize(
  ("name", "harm", "message"),
  [
    (SEAL, flip, "6 is damaged: "),
    (SEAL, empty, "6 is damaged: SHA256SUMS is cut short; trying the one bef"),
    ("iterator_0-of-1.json", cut, "6 is damaged: iterator_0-of-1.json differs"),
    ("experiment.json", unreadable, "6 is damaged: it cannot be read: "),
  ],
)
def test_the_one_before_is_restored(saved, caplog, name, harm, message):
  harm(saved / "6" / name)
  harmed = (saved / "6" / name).stat().st_size
  with training.Checkpoints(saved, toy_run.EXPERIMENT) as checkpoints:
    caplog.clear()
    found = checkpoints.restore(tiny(), toy_run.Batches())
  assert int(found.step) == 3
  [record] = caplog.records
  assert message in record.getMessage()
  # Put aside, not away.
  assert sorted(p.name for p in saved.iterdir()) == ["3", "6.damaged"]
  assert (saved / "6.damaged" / name).stat().st_size == harmed


def test_an_iterator_that_does_not_take_the_position(saved):
  class Others(toy_run.Batches):
    def set_state(self, state):
      self.i = state["number"]

  with (
    training.Checkpoints(saved, toy_run.EXPERIMENT) as checkpoints,
    pytest.raises(
      ValueError,
      match=r"6/iterator_0-of-1\.json does not fit .*: KeyError: 'num",
    ),
  ):
    checkpoints.restore(tiny(), Others())
