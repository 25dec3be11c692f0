"""Reading checkpoints that `flax.training.checkpoints` wrote."""

from pathlib import Path

import flax.serialization

from jaxgen.messages import reason
from jaxgen.types import PyTree


def read_msgpack(path: str | Path) -> PyTree:
  """The nested dictionaries of numpy arrays in a Flax msgpack file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is truncated, corrupt or of another kind.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no checkpoint file {path}.")
  try:
    tree = flax.serialization.msgpack_restore(path.read_bytes())
  except Exception as error:  # whatever a damaged file makes the parser do
    raise ValueError(
      f"{path} is not a whole Flax checkpoint: {reason(error)}."
    ) from error
  if not isinstance(tree, dict):
    raise ValueError(
      f"{path} is not a Flax checkpoint: it holds {type(tree).__name__}."
    )
  return tree
