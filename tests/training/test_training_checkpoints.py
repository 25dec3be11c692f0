"""What was saved comes back, and damage, strangers and full disks are told."""

import collections
import hashlib
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run

from jaxgen import training

EXPERIMENT = toy_run.EXPERIMENT


@pytest.fixture(scope="module")
def trained():
  """A state on the 4 x 2 mesh after three steps."""
  state, _ = toy_run.losses(training.make_mesh(4, 2), 3)
  return state


def tiny(step=0, value=0.0):
  """A state of a few numbers, at a step."""
  mesh = training.make_mesh(devices=jax.devices()[:1])
  params = {"w": jnp.full((2, 3), jnp.float32(value))}
  state = training.init_state(params, training.adam(0.1), jax.random.key(7))
  return training.shard_state(mesh, state.replace(step=jnp.int32(step)))


def save_steps(directory, *steps, keep=2):
  """Saves tiny(step, step) for each step."""
  with training.Checkpoints(directory, EXPERIMENT, keep=keep) as checkpoints:
    for step in steps:
      checkpoints.save(tiny(step, step))


def names(directory):
  return sorted(path.name for path in directory.iterdir())


def numbers(tree):
  """Leaves as NumPy arrays, keys by their words."""

  def number(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)

  return jax.tree.map(number, tree)


def test_restores_bit_for_bit_on_any_mesh(tmp_path, trained):
  with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
    checkpoints.save(trained)
  for mesh in (
    training.make_mesh(4, 2),
    training.make_mesh(1, 8),
    training.make_mesh(devices=jax.devices()[3:4]),
  ):
    blank, _ = toy_run.make(mesh)
    with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
      found = checkpoints.restore(blank)
    assert jax.tree.structure(found) == jax.tree.structure(trained)
    jax.tree.map(
      np.testing.assert_array_equal, numbers(found), numbers(trained)
    )
    places = jax.tree.map(lambda x: x.sharding, (found, blank))
    assert places[0] == places[1]


def test_restored_run_goes_on_as_the_uninterrupted_one(tmp_path):
  """Saving is asynchronous while the donated buffers are already reused."""
  mesh = training.make_mesh(4, 2)
  _, expected = toy_run.losses(mesh, 6)
  state, train_step = toy_run.make(mesh)
  batches, found = toy_run.Batches(), []
  with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
    for _ in range(3):
      batch = training.shard_batch(mesh, next(batches))
      state, _ = train_step(state, batch)
    checkpoints.save(state, batches)
    for _ in range(3):
      state, _ = train_step(state, training.shard_batch(mesh, next(batches)))
    checkpoints.wait()
    blank, _ = toy_run.make(mesh)
    batches = toy_run.Batches()
    state = checkpoints.restore(blank, batches)
    for _ in range(3):
      batch = training.shard_batch(mesh, next(batches))
      state, metrics = train_step(state, batch)
      found.append(metrics["loss"])
  np.testing.assert_array_equal(np.array(found), expected[3:])


def test_nothing_to_restore(tmp_path):
  state = tiny()
  with training.Checkpoints(tmp_path / "a" / "b", EXPERIMENT) as checkpoints:
    assert checkpoints.restore(state, toy_run.Batches()) is state
    assert checkpoints.latest_step() is None


def test_keeps_the_newest(tmp_path):
  save_steps(tmp_path, 1, 5, 10, 11, keep=2)
  assert names(tmp_path) == ["10", "11"]


def test_positions_in_the_data(tmp_path):
  class Bytes(toy_run.Batches):
    def get_state(self):
      return b"\x00\xff%d" % self.i

    def set_state(self, state):
      self.i = int(state[2:])

  for kind in (toy_run.Batches, Bytes):
    before, after = kind(), kind()
    before.i = 41
    directory = tmp_path / kind.__name__
    with training.Checkpoints(directory, EXPERIMENT) as checkpoints:
      checkpoints.save(tiny(1), before)
      checkpoints.wait()
      checkpoints.restore(tiny(), after)
      assert after.i == 41
      with pytest.raises(ValueError, match="no iterator was given"):
        checkpoints.restore(tiny())


def test_positions_of_another_number_of_processes(tmp_path, monkeypatch):
  """One that all share counts whole batches; others are of one process."""
  files = training.checkpoints.files

  def be(index, count):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: count)

  def write(*positions):
    for index, position in enumerate(positions):
      be(index, len(positions))
      iterator = toy_run.Batches()
      iterator.i = position
      files.write_position(tmp_path, iterator)

  write(41, 41)
  for index, count in ((0, 1), (3, 4)):
    be(index, count)
    found = toy_run.Batches()
    files.restore_position(tmp_path, found)
    assert found.i == 41
  write(41, 42)
  be(0, 1)
  with pytest.raises(ValueError, match=r"process 0 of 1: those of .* differ"):
    files.restore_position(tmp_path, toy_run.Batches())
  be(1, 2)
  files.restore_position(tmp_path, found)
  assert found.i == 42


def test_an_iterator_needs_a_position(tmp_path):
  save_steps(tmp_path, 1)
  with (
    training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints,
    pytest.raises(ValueError, match="has no position in the data"),
  ):
    checkpoints.restore(tiny(), toy_run.Batches())


@pytest.mark.parametrize("harm", ["cut", "flip", "lose"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, harm):
  save_steps(tmp_path, 3, 6)
  data = tmp_path / "6" / "arrays" / "params" / "ocdbt.process_0" / "d"
  victim = max(data.iterdir(), key=lambda path: path.stat().st_size)
  content = bytearray(victim.read_bytes())
  content[len(content) // 2] ^= 1
  if harm == "cut":
    victim.write_bytes(content[: len(content) // 2])
  elif harm == "flip":
    victim.write_bytes(content)
  else:
    victim.unlink()
  # Readers pass over it, too, but change nothing.
  params = training.restore_params(tmp_path, "params")
  np.testing.assert_array_equal(params["w"], np.full((2, 3), 3.0))
  assert names(tmp_path) == ["3", "6"]
  caplog.clear()
  with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
    found = checkpoints.restore(tiny())
    assert int(found.step) == 3
    [record] = caplog.records
    assert "6 is damaged: arrays/params/" in record.getMessage()
    checkpoints.save(tiny(6, 6.0))
  assert names(tmp_path) == ["3", "6", "6.damaged"]
  assert int(training.restore_params(tmp_path)["w"][0, 0]) == 6


def test_only_damaged_checkpoints(tmp_path):
  save_steps(tmp_path, 3, 6)
  for step in ("3", "6"):
    (tmp_path / step / "experiment.json").write_text("{")
  with (
    training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints,
    pytest.raises(ValueError, match=r"all 2 checkpoints in .* are damaged"),
  ):
    checkpoints.restore(tiny())
  assert names(tmp_path) == ["3", "6"]


def test_unfinished_checkpoints_are_ignored_and_removed(tmp_path):
  save_steps(tmp_path, 3, 6)
  (tmp_path / "6" / "SHA256SUMS").unlink()
  (tmp_path / "7").mkdir()
  (tmp_path / "notes").mkdir()
  params = training.restore_params(tmp_path)
  assert params["w"][0, 0] == 3
  save_steps(tmp_path)
  assert names(tmp_path) == ["3", "notes"]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"name": "other"}, "name is 'toy' there and 'other' here"),
    ({"optimizer": {"lr": 1}}, r"optimizer\.lr is 0\.001 there and 1 here"),
    ({"width": 8}, "width is absent there and 8 here"),
    ({"num_steps": 99}, None),
  ],
)
def test_another_experiment_is_refused(tmp_path, change, message):
  save_steps(tmp_path, 3)
  (tmp_path / "4").mkdir()
  other = {**EXPERIMENT, **change}
  if message is None:
    training.Checkpoints(tmp_path, other, may_change=["num_steps"]).close()
    return
  with pytest.raises(ValueError, match=message):
    training.Checkpoints(tmp_path, other, may_change=["num_steps"])
  assert names(tmp_path) == ["3", "4"]
  assert training.restore_experiment(tmp_path) == EXPERIMENT


def test_a_checkpoint_that_was_not_restored_is_not_overwritten(tmp_path):
  save_steps(tmp_path, 10)
  with (
    training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints,
    pytest.raises(ValueError, match=r"step 10 already; .* saving step 2"),
  ):
    checkpoints.save(tiny(2))
  assert names(tmp_path) == ["10"]


def test_a_state_of_another_kind_does_not_fit(tmp_path):
  save_steps(tmp_path, 1)
  state = tiny()
  w = jnp.zeros((2, 3))
  cases = [
    (
      {"w": jnp.zeros((2, 4))},
      r"params/w is float32\[2, 3\] .* float32\[2, 4\]",
    ),
    ({"w": w.astype(jnp.bfloat16)}, r"float32\[2, 3\] there and bfloat16"),
    ({"w": w, "b": w}, r"params/b is absent there and float32\[2, 3\] here"),
  ]
  with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
    for params, message in cases:
      with pytest.raises(ValueError, match=message):
        checkpoints.restore(state.replace(params=params))
    sgd = optax.sgd(0.1, 0.9).init(state.params)
    with pytest.raises(ValueError, match="opt_state/0/trace/w is absent"):
      checkpoints.restore(state.replace(opt_state=sgd))


def test_params_for_sampling_need_no_template(tmp_path, trained):
  with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
    checkpoints.save(trained)
  mesh = training.make_mesh(1, 8)
  for which, place in (("ema", None), ("params", mesh)):
    found = training.restore_params(tmp_path, which, place)
    expected = getattr(trained, which)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
  kernel = found["Dense_1"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (256, 32)
  with pytest.raises(ValueError, match="must be 'ema', 'params' or 'memory'"):
    training.restore_params(tmp_path, "opt_state")
  with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
    training.restore_params(tmp_path / "elsewhere")


def test_the_seal_is_that_of_sha256sum(tmp_path):
  save_steps(tmp_path, 1)
  lines = (tmp_path / "1" / "SHA256SUMS").read_text().splitlines()
  digests = {line[66:]: line[:64] for line in lines}
  content = (tmp_path / "1" / "experiment.json").read_bytes()
  assert digests["experiment.json"] == hashlib.sha256(content).hexdigest()
  assert json.loads(content) == EXPERIMENT


def test_an_unwritable_directory_is_told_at_once(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  with pytest.raises(NotADirectoryError, match=r"cannot write to .*file/a"):
    training.Checkpoints(tmp_path / "file" / "a", EXPERIMENT)

  def refuse(**_):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr("tempfile.TemporaryFile", refuse)
  with pytest.raises(PermissionError, match=r"cannot write to .*denied"):
    training.Checkpoints(tmp_path / "a", EXPERIMENT)


def test_bad_arguments_are_refused(tmp_path):
  with pytest.raises(ValueError, match="keep must be at least 1"):
    training.Checkpoints(tmp_path, EXPERIMENT, keep=0)
  with pytest.raises(TypeError, match="experiment must be JSON"):
    training.Checkpoints(tmp_path, {"dtype": jnp.float32})


def test_a_full_disk_is_seen_before_writing(tmp_path, monkeypatch):
  save_steps(tmp_path, 1)
  usage = collections.namedtuple("usage", "total used free")
  full = usage(1000, 990, 10)
  # w thrice more in average and moments, two counts, a step, a key: 116.
  message = (
    "could not save step 2 .*intact: it needs 116 bytes, the disk has 10"
  )
  with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
    with monkeypatch.context() as patch:
      patch.setattr("shutil.disk_usage", lambda path: full)
      with pytest.raises(OSError, match=message):
        checkpoints.save(tiny(2))
    assert int(checkpoints.restore(tiny()).step) == 1
    checkpoints.save(tiny(2))


# Orbax leaves tasks behind when a write fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failed_write_leaves_the_older_checkpoints(tmp_path, trained):
  """No file may grow beyond 64 kB, as if under a quota."""
  save_steps(tmp_path, 1)

  def save():
    with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
      checkpoints.save(trained)

  unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, unlimited[1]))
  try:
    message = r"could not save step 3 .*intact: .*too large"
    with pytest.raises(OSError, match=message) as caught:
      save()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
  assert "\n" not in str(caught.value)
  assert training.restore_params(tmp_path)["w"][0, 0] == 1


def test_failure_in_the_background_shows_later(tmp_path, monkeypatch):
  checkpoints = training.Checkpoints(tmp_path, EXPERIMENT)
  checkpoints.save(tiny(1))
  checkpoints.wait()

  def fail(directory):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr("jaxgen.training.checkpoints.write_seal", fail)
    checkpoints.save(tiny(2))
    with pytest.raises(OSError, match=r"step 2 .* intact: .*No space left"):
      checkpoints.save(tiny(3))
  assert checkpoints.latest_step() == 1
  checkpoints.save(tiny(3))
  checkpoints.close()
  assert names(tmp_path) == ["1", "2", "3"]
  save_steps(tmp_path)
  assert names(tmp_path) == ["1", "3"]


def test_grain_position(tmp_path):
  grain = pytest.importorskip("grain")

  def batches():
    dataset = grain.MapDataset.range(40).shuffle(seed=3).repeat()
    return iter(dataset.batch(8).to_iter_dataset())

  first, second = batches(), batches()
  for _ in range(7):
    next(first)
  with training.Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
    checkpoints.save(tiny(1), first)
    checkpoints.wait()
    checkpoints.restore(tiny(), second)
  for _ in range(5):
    np.testing.assert_array_equal(next(first), next(second))
