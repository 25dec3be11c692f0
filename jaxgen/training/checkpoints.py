"""Checkpoints that survive kills, full disks and damaged files.

A checkpoint is a directory named after its step. It counts once its seal is
there, which is written last; until then it is unfinished: ignored by readers,
removed by the next run. An older checkpoint is deleted only after a newer one
is sealed.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxgen.training import checkpoint_files as files
from jaxgen.training.checkpoint_files import DataIterator
from jaxgen.training.seal import SEAL, damage, is_sealed, write_seal
from jaxgen.training.state import TrainState
from jaxgen.types import PyTree

_log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one run, in one directory.

      with Checkpoints(directory, experiment) as checkpoints:
        state = checkpoints.restore(state, batches)
        ...
        checkpoints.save(state, batches)

  Every process of a job calls both. `save` returns once the state is copied
  to host memory; the files are written behind the training's back, and an
  error there shows at the next `save`, at `wait` or at the end.
  """

  def __init__(
    self,
    directory: str | Path,
    experiment: Mapping[str, Any],
    may_change: Collection[str] = (),
    keep: int = 2,
  ) -> None:
    """Opens or makes the directory, and looks whose it is.

    Args:
      directory: on a file system that all processes share.
      experiment: name and configuration, as JSON can hold them; saved beside
        the arrays, and what a later run must agree with.
      may_change: fields that a later run may set otherwise, such as the
        number of steps; a nested field is "optimizer.lr".
      keep: how many checkpoints to keep.

    Raises:
      OSError: the directory cannot be written.
      TypeError: the experiment is not JSON.
      ValueError: the directory holds another experiment's checkpoints, which
        are left as they were.
    """
    if keep < 1:
      raise ValueError(f"keep must be at least 1, got {keep}")
    self._directory = Path(directory).absolute()
    self._experiment = _as_json(experiment)
    self._keep = keep
    _check_writable(self._directory)
    _check_same(self._directory, self._experiment, may_change)
    if jax.process_index() == 0:
      _remove_unfinished(self._directory)
    logging.getLogger("absl").addFilter(_not_of_orbax)
    self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    self._sealer = ThreadPoolExecutor(max_workers=1)
    self._pending: tuple[int, Future[None]] | None = None

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def latest_step(self) -> int | None:
    """The step of the newest finished checkpoint; None if there is none."""
    return max(_sealed_steps(self._directory), default=None)

  def restore(
    self, state: TrainState, iterator: DataIterator | None = None
  ) -> TrainState:
    """The newest good checkpoint; `state` itself if there is none.

    Bit for bit what was saved, on any mesh. A damaged checkpoint is passed
    over with a warning and renamed to `<step>.damaged`.

    Args:
      state: says the structure, and where on the devices arrays shall live.
      iterator: the data, to be set where it stood.

    Raises:
      ValueError: every checkpoint is damaged; or it does not fit the state;
        or a position in the data without an iterator, an iterator without a
        position, or different positions of another number of processes.
    """
    step, damaged = _newest_good(self._directory)
    if step is None:
      return state
    if jax.process_index() == 0:
      for bad in damaged:
        _set_aside(self._directory / str(bad))
    directory = self._directory / str(step)
    state = files.read_state(directory, state)
    files.restore_position(directory, iterator)
    return state

  def save(
    self, state: TrainState, iterator: DataIterator | None = None
  ) -> None:
    """Saves the state, and the data's position, under the state's step.

    Raises:
      OSError: this or the previous save failed, for want of space say; the
        checkpoints before it are intact.
      ValueError: there is a checkpoint of this step or a later one already.
    """
    self.wait()
    step = int(state.step)
    latest = self.latest_step()
    if latest is not None and latest >= step:
      raise ValueError(
        f"{self._directory} has a checkpoint of step {latest} already; "
        f"restore it before saving step {step}"
      )
    directory = self._directory / str(step)
    try:
      if jax.process_index() == 0:
        _remove(directory)
        directory.mkdir()
        files.write_experiment(directory, self._experiment)
      if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"made {directory}")
      if iterator is not None:
        files.write_position(directory, iterator)
      files.start_writing_state(self._checkpointer, directory, state)
    except Exception as error:
      raise self._failure(step, error) from error
    self._pending = (step, self._sealer.submit(self._finish, directory))

  def wait(self) -> None:
    """Returns when the last save is complete on disk."""
    pending, self._pending = self._pending, None
    if pending is None:
      return
    step, future = pending
    try:
      future.result()
    except Exception as error:
      raise self._failure(step, error) from error

  def close(self) -> None:
    """Waits, and ends the writing threads."""
    try:
      self.wait()
    finally:
      self._sealer.shutdown()
      self._checkpointer.close()

  def _finish(self, directory: Path) -> None:
    """Seals once the arrays of all processes are there, then prunes."""
    self._checkpointer.wait_until_finished()
    if jax.process_index() == 0:
      write_seal(directory)
      for step in sorted(_sealed_steps(self._directory))[: -self._keep]:
        _remove(self._directory / str(step))

  def _failure(self, step: int, error: Exception) -> OSError:
    # Orbax may add pages of advice to the first line.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return OSError(
      f"could not save step {step} in {self._directory}, the checkpoints "
      f"before it are intact: {reason}"
    )


def restore_params(
  directory: str | Path, which: str = "ema", mesh: Mesh | None = None
) -> PyTree:
  """The parameters of the newest good checkpoint, or its memory, for sampling.

  Needs no network and no optimizer, and changes nothing in the directory.

  Args:
    directory: that of `Checkpoints`.
    which: "ema", "params" or "memory".
    mesh: where to place them, by `state_sharding`; the first device if None.

  Raises:
    FileNotFoundError: there is no finished checkpoint.
    ValueError: all are damaged, or `which` is neither name.
  """
  if which not in ("ema", "params", "memory"):
    raise ValueError(
      f"which must be 'ema', 'params' or 'memory', got {which!r}"
    )
  return files.read_params(_newest_good_directory(directory), which, mesh)


def trained_steps(directory: str | Path) -> int:
  """The step of the newest good checkpoint.

  Raises:
    FileNotFoundError: there is no finished checkpoint.
    ValueError: all are damaged.
  """
  return int(_newest_good_directory(directory).name)


def restore_experiment(directory: str | Path) -> dict[str, Any]:
  """The `experiment` of the newest good checkpoint.

  Raises:
    FileNotFoundError: there is no finished checkpoint.
    ValueError: all are damaged.
  """
  return files.read_experiment(_newest_good_directory(directory))


def _not_of_orbax(record: logging.LogRecord) -> bool:
  """Keeps orbax from hundreds of lines of traceback for every failed write.

  The errors themselves reach us by `wait`.
  """
  return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _newest_good_directory(directory: str | Path) -> Path:
  directory = Path(directory).absolute()
  step, _ = _newest_good(directory)
  if step is None:
    raise FileNotFoundError(f"there is no finished checkpoint in {directory}")
  return directory / str(step)


def _newest_good(directory: Path) -> tuple[int | None, list[int]]:
  """The newest undamaged step, and the damaged ones after it.

  Process 0 reads and decides for all, so that all restore the same step.
  """
  good = -1
  damaged = []
  steps = sorted(_sealed_steps(directory), reverse=True)
  for step in steps if jax.process_index() == 0 else []:
    problem = damage(directory / str(step))
    if problem is None:
      good = step
      break
    damaged.append(step)
    _log.warning(
      "checkpoint %s is damaged: %s; trying the one before",
      directory / str(step),
      problem,
    )
  if jax.process_count() > 1:
    good = int(multihost_utils.broadcast_one_to_all(np.int32(good)))
  if good >= 0:
    return good, damaged
  if steps:
    raise ValueError(f"all {len(steps)} checkpoints in {directory} are damaged")
  return None, []


def _sealed_steps(directory: Path) -> list[int]:
  if not directory.is_dir():
    return []
  numbered = [path for path in directory.iterdir() if _is_step(path.name)]
  return [int(path.name) for path in numbered if is_sealed(path)]


def _is_step(name: str) -> bool:
  """Whether it is a number as `str` writes it: neither 007 nor ٣."""
  return name.isdecimal() and name == str(int(name))


def _remove_unfinished(directory: Path) -> None:
  for path in directory.iterdir():
    if _is_step(path.name) and not is_sealed(path):
      _remove(path)


def _remove(directory: Path) -> None:
  """Deletes a checkpoint, seal first: half deleted is unfinished."""
  (directory / SEAL).unlink(missing_ok=True)
  if directory.is_dir():
    shutil.rmtree(directory)


def _set_aside(directory: Path) -> None:
  aside = directory.with_name(f"{directory.name}.damaged")
  if aside.is_dir():
    shutil.rmtree(aside)
  directory.rename(aside)


def _check_writable(directory: Path) -> None:
  try:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
      pass
  except OSError as error:
    raise type(error)(f"cannot write to {directory}: {error}") from error


def _check_same(
  directory: Path, experiment: dict[str, Any], may_change: Collection[str]
) -> None:
  """Raises if the newest checkpoint is another experiment's."""
  latest = max(_sealed_steps(directory), default=None)
  if latest is None:
    return
  try:
    theirs = _flat(files.read_experiment(directory / str(latest)))
  except (OSError, ValueError):
    return  # damaged: `restore` will find out and say so
  ours = _flat(experiment)
  for name in [*ours, *theirs]:
    there, here = (
      repr(fields[name]) if name in fields else "absent"
      for fields in (theirs, ours)
    )
    if there != here and name not in may_change:
      raise ValueError(
        f"{directory} holds another experiment: {name} is {there} there and "
        f"{here} here; choose another directory"
      )


def _as_json(experiment: Mapping[str, Any]) -> dict[str, Any]:
  try:
    return json.loads(json.dumps(dict(experiment)))
  except TypeError as error:
    raise TypeError(f"experiment must be JSON: {error}") from error


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested fields under dotted names."""
  flat: dict[str, Any] = {}
  for name, value in fields.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{name}.")
    else:
      flat[f"{prefix}{name}"] = value
  return flat
