"""A trained model as a folder of small files, to be published.

  model.safetensors  parameters in half precision, the averaged ones
  experiment.json    the configuration, with the updates that were made
  first_stage.json   the architecture of the first stage
  tokenizer.json     of a text-to-image model

A checkpoint has the optimizer's state as well, and whole precision.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.convert.state import read_safetensors, write_safetensors
from jaxgen.json_files import read_entries
from jaxgen.messages import reason, shown
from jaxgen.types import PyTree

PARAMS, EXPERIMENT = "model.safetensors", "experiment.json"
FIRST_STAGE, TOKENIZER = "first_stage.json", "tokenizer.json"
# Of a first stage, what only encoding needs.
ENCODER = ("encoder", "quant_conv")
# What networks raise that cannot be built.
_NO_NETWORK = (
  ValueError,
  TypeError,
  ArithmeticError,
  AttributeError,
  LookupError,
)
_LARGEST = float(np.finfo(np.float16).max)


def write(
  folder: Path, fields: dict[str, Any], params: PyTree, workdir: Path
) -> None:
  """Writes a model into a new folder.

  Args:
    folder: which must be empty, or not exist.
    fields: of the configuration.
    params: of the model.
    workdir: of the training, with the other files.

  Raises:
    ValueError: a parameter is too large for half precision.
    OSError: the folder is not empty, or cannot be written.
  """
  if folder.exists() and any(folder.iterdir()):
    raise OSError(f"{folder} is not empty: choose another folder")
  state = {}
  for name, leaf in flatten_dict(params, sep="/").items():
    leaf = np.asarray(leaf)
    if not np.all(np.abs(leaf) <= _LARGEST):
      raise ValueError(f"{name} has entries that half precision cannot hold")
    state[name] = leaf.astype(np.float16)
  folder.mkdir(parents=True, exist_ok=True)
  for name in (FIRST_STAGE, TOKENIZER):
    if (workdir / name).is_file():
      shutil.copyfile(workdir / name, folder / name)
  text = json.dumps({"experiment": "ldm", **fields}, indent=2)
  (folder / EXPERIMENT).write_text(text + "\n")
  write_safetensors(folder / PARAMS, state, {"format": "jaxgen"})


def is_folder(path: Path) -> bool:
  """Whether a model lies there that `write` wrote."""
  return (path / EXPERIMENT).is_file()


def read_fields(folder: Path) -> dict[str, Any]:
  """The configuration's fields, with `experiment`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged.
  """
  return read_entries(folder / EXPERIMENT)


def read_params(
  folder: Path, sizes: Mapping[str, Any], shapes_of: Callable[[], PyTree]
) -> PyTree:
  """The parameters, in float32.

  Args:
    folder: that `write` wrote.
    sizes: what the folder says of its networks, by name.
    shapes_of: gives the model's parameters, as shapes, which takes long where
      the sizes are absurd; of its first stage those of `ENCODER` may be
      missing.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or a tensor is missing, unused or of the wrong
      shape, or the folder describes no network.
  """
  path = folder / PARAMS
  state = read_safetensors(path)
  for name, value in sizes.items():
    _check_size(folder, name, value, len(state))
  try:
    shapes = flatten_dict(shapes_of(), sep="/")
  except _NO_NETWORK as error:
    raise ValueError(f"{folder} describes no model: {reason(error)}") from error
  optional = tuple(f"first_stage/{name}/" for name in ENCODER)
  for name, shape in shapes.items():
    found = state.get(name)
    if found is None and name.startswith(optional):
      continue
    if found is None or found.shape != shape.shape:
      what = "none" if found is None else str(found.shape)
      raise ValueError(f"{path}: {name} must be {shape.shape}, got {what}")
  if unused := sorted(set(state) - set(shapes)):
    raise ValueError(
      f"{path} holds {shown(unused[0])[1:-1]}, which the model has not"
    )
  params = {name: jnp.asarray(x, jnp.float32) for name, x in state.items()}
  return {"conditioner": {}} | unflatten_dict(params, sep="/")


def _check_size(folder: Path, name: str, value: Any, tensors: int) -> None:
  """Raises ValueError for a number that no network of so many tensors has.

  As many layers take days to build.
  """
  several = value if isinstance(value, tuple) else (value,)
  field = name.rpartition(".")[2]
  layers = field in ("num_res_blocks", "text_layers", "transformer_depth")
  most = tensors if layers else 1_000_000
  numbers = [n for n in several if isinstance(n, int | float)]
  if len(several) > tensors or not all(0 <= n <= most for n in numbers):
    raise ValueError(f"{folder} has {name} {shown(value)} of {tensors} tensors")
