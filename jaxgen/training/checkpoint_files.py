"""What is inside one checkpoint's directory, and how it is read and written.

Beside the seal there are `experiment.json`, what was being trained;
`iterator_0-of-1.json` (or `.bin`), the data position of each process; and
`arrays/`, by orbax, with a pytree each for `params`, `ema`, `opt_state` and
`rest` (step and key).
"""

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding

from jaxgen.json_files import parse_json, read_entries
from jaxgen.messages import reason
from jaxgen.training.parallel import state_sharding
from jaxgen.training.state import TrainState
from jaxgen.types import PyTree

_SUFFIXES = (".json", ".bin")


class DataIterator(Protocol):
  """An iterator that can say and set its position, as grain's can.

  Each process has its own. Where all of a job's processes stand at the same
  position, as in `jaxgen.data.train_batches`, it is taken to count batches over
  all of them: any other number of processes can continue from it.
  """

  def get_state(self) -> Any:
    """The position: a dict that JSON can hold, or bytes."""

  def set_state(self, state: Any) -> None:
    """Continues from a position that `get_state` returned."""


def write_experiment(directory: Path, experiment: dict[str, Any]) -> None:
  """Stores the experiment's name and configuration."""
  text = json.dumps(experiment, indent=2) + "\n"
  (directory / "experiment.json").write_text(text)


def read_experiment(directory: Path) -> dict[str, Any]:
  """What `write_experiment` stored.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged.
  """
  return read_entries(directory / "experiment.json")


def start_writing_state(
  checkpointer: ocp.AsyncCheckpointer, directory: Path, state: TrainState
) -> None:
  """Copies the state to the host; the checkpointer then writes behind.

  Raises:
    OSError: the disk has too little room.
  """
  needed = sum(x.nbytes for x in jax.tree.leaves(state))
  free = shutil.disk_usage(directory).free
  if free < needed:
    raise OSError(f"it needs {needed:,} bytes, the disk has {free:,}")
  items = {
    name: ocp.args.StandardSave(jax.tree.map(_one_copy, item))
    for name, item in _items(state).items()
  }
  checkpointer.save(directory / "arrays", ocp.args.Composite(**items))


def _one_copy(x: Any) -> Any:
  """Of an array that every device has whole, the first one's.

  Orbax would cut it into a slice for each device, thousands of operations.
  Several processes keep theirs, as a part of a global array.
  """
  if not isinstance(x, jax.Array) or jax.process_count() > 1:
    return x
  return x.addressable_data(0) if x.is_fully_replicated else x


def read_state(directory: Path, like: TrainState) -> TrainState:
  """The state, with the structure and in the places of `like`.

  Raises:
    ValueError: structure, a shape or a dtype is not that of `like`.
  """
  args = {}
  for name, item in _items(like).items():
    stored = _stored(directory / "arrays" / name)
    _check_fits(directory, {name: stored}, {name: item})
    places = jax.tree.map(lambda x: x.sharding, item)
    args[name] = ocp.args.StandardRestore(_abstract(item, places))
  found = _read(directory, args)
  impl = jax.random.key_impl(like.key)
  return TrainState(
    step=found["rest"]["step"],
    params=found["params"],
    ema=found["ema"],
    opt_state=found["opt_state"],
    key=jax.random.wrap_key_data(found["rest"]["key"], impl=impl),
    memory=found.get("memory", like.memory),
  )


def read_params(directory: Path, which: str, mesh: Mesh | None) -> PyTree:
  """`which` = "ema", "params" or "memory", in the structure stored.

  Raises:
    ValueError: the arrays are damaged, though sealed.
  """
  try:
    return _read_params(directory, which, mesh)
  except Exception as error:  # Orbax raises whatever its parts do.
    raise ValueError(
      f"{directory} has no readable {which}: {reason(error)}"
    ) from error


def _read_params(directory: Path, which: str, mesh: Mesh | None) -> PyTree:
  stored = _stored(directory / "arrays" / which)
  if mesh is None:
    here = SingleDeviceSharding(jax.local_devices()[0])
    places = jax.tree.map(lambda _: here, stored)
  else:
    places = state_sharding(mesh, stored)
  args = {which: ocp.args.StandardRestore(_abstract(stored, places))}
  return _read(directory, args)[which]


def write_position(directory: Path, iterator: DataIterator) -> None:
  """Stores where this process stands in the data."""
  position = iterator.get_state()
  if isinstance(position, bytes):
    _position_path(directory, ".bin").write_bytes(position)
  else:
    _position_path(directory, ".json").write_text(json.dumps(position))


def restore_position(directory: Path, iterator: DataIterator | None) -> None:
  """Sets the iterator to the stored position.

  Raises:
    ValueError: a position without an iterator, an iterator without a
      position or that does not take it, or positions of another number of
      processes that differ from each other.
  """
  names = sorted(path.name for path in directory.glob("iterator_*"))
  if iterator is None:
    if names:
      raise ValueError(
        f"the checkpoint {directory} has a position in the data, but no "
        "iterator was given"
      )
    return
  candidates = [_position_path(directory, suffix) for suffix in _SUFFIXES]
  path = next((path for path in candidates if path.is_file()), None)
  if path is None:
    path = _common_position(directory, names)
  content = path.read_bytes()
  position = parse_json(content, path) if path.suffix == ".json" else content
  try:
    iterator.set_state(position)
  except Exception as error:  # An iterator raises whatever its parts do.
    raise ValueError(
      f"the position in the data of {path} does not fit this iterator: "
      f"{type(error).__name__}: {reason(error)}"
    ) from error


def _common_position(directory: Path, names: list[str]) -> Path:
  """The position at which all processes of another number stood."""
  if not names:
    raise ValueError(f"the checkpoint {directory} has no position in the data")
  if len({(directory / name).read_bytes() for name in names}) > 1:
    raise ValueError(
      f"the checkpoint {directory} has no position in the data for process "
      f"{jax.process_index()} of {jax.process_count()}: those of {names} "
      "differ, so that only as many processes can continue"
    )
  return directory / names[0]


def _items(state: TrainState) -> dict[str, PyTree]:
  # The key as plain numbers: its type is the caller's to choose.
  key = jax.random.key_data(state.key)
  items = {
    "params": state.params,
    "ema": state.ema,
    "opt_state": state.opt_state,
    "rest": {"step": state.step, "key": key},
  }
  if jax.tree.leaves(state.memory):
    items["memory"] = state.memory
  return items


def _stored(path: Path) -> PyTree:
  """Shapes and dtypes of a stored pytree; tuples may come back as lists."""
  metadata = ocp.StandardCheckpointHandler().metadata(path)
  return getattr(metadata, "tree", metadata)


def _read(directory: Path, args: dict[str, Any]) -> dict[str, PyTree]:
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
    return checkpointer.restore(
      directory / "arrays", ocp.args.Composite(**args)
    )


def _check_fits(directory: Path, stored: PyTree, wanted: PyTree) -> None:
  """Orbax would cast silently, and is long-winded about the rest."""
  there, here = _kinds(stored), _kinds(wanted)
  for name in [*here, *there]:
    old, new = there.get(name, "absent"), here.get(name, "absent")
    if old != new:
      raise ValueError(
        f"the checkpoint {directory} does not fit: {name} is {old} there "
        f"and {new} here"
      )


def _kinds(tree: PyTree) -> dict[str, str]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{x.dtype}{list(x.shape)}"
    )
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def _abstract(tree: PyTree, places: PyTree) -> PyTree:
  def shape(x, place):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

  return jax.tree.map(shape, tree, places)


def _position_path(directory: Path, suffix: str) -> Path:
  index, count = jax.process_index(), jax.process_count()
  return directory / f"iterator_{index}-of-{count}{suffix}"
