"""Checkpoints as flat dictionaries, tensor name -> array, and their files.

Converters are strict: every tensor of a checkpoint must be used, and every
parameter filled, with the right shape. Reading executes nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from jaxgen.messages import reason, shown
from jaxgen.types import PyTree

State = Mapping[str, np.ndarray]
ParamPath = tuple[str, ...]  # ("conv_in", "kernel")

# Parameters of two axes that PyTorch has the same way round.
TABLES = ("embedding", "position_embedding", "table")


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
  """The tensors of a safetensors file, half precisions as float32.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is truncated, corrupt or of another kind.
  """
  safetensors = _import_safetensors()
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no checkpoint file {path}.")
  try:
    with safetensors.safe_open(path, framework="np") as file:
      names = file.keys()
      state = {name: file.get_tensor(name) for name in names}
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path} is not a whole safetensors file: {reason(error)}."
    ) from error
  return {name: _widen(tensor) for name, tensor in state.items()}


def write_safetensors(
  path: str | Path, state: State, metadata: Mapping[str, str] | None = None
) -> None:
  """Writes tensors to a safetensors file, by default as PyTorch's layout."""
  _import_safetensors()
  from safetensors.numpy import save_file

  # save_file reads raw memory, so a transposed view would be written wrong;
  # and NumPy gives a scalar an axis here.
  whole = {
    n: np.ascontiguousarray(x).reshape(x.shape) for n, x in state.items()
  }
  save_file(whole, str(path), metadata=dict(metadata or {"format": "pt"}))


def below(prefix: str, state: State) -> State:
  """The tensors whose names begin with a prefix, without it; else all."""
  found = {
    name.removeprefix(prefix): tensor
    for name, tensor in state.items()
    if name.startswith(prefix)
  }
  return found or state


def fill(
  template: PyTree, name_of: Callable[[ParamPath], str], state: State
) -> PyTree:
  """Parameters of `template`'s structure with the tensors of `state`.

  Args:
    template: nested dictionaries of shapes, from `jax.eval_shape`.
    name_of: parameter path -> name of its tensor in PyTorch's layout.
    state: the checkpoint.

  Raises:
    ValueError: if a tensor is missing, unused, of the wrong shape or not of
      floating point numbers.
  """
  flat = flax.traverse_util.flatten_dict(template)
  names = {path: name_of(path) for path in flat}
  check_names(names.values(), state)
  for name in names.values():
    if not jnp.issubdtype(state[name].dtype, jnp.floating):
      raise ValueError(f"Tensor {name} holds {state[name].dtype}, not floats.")
  leaves = {
    path: from_tensor(path, state[names[path]], len(leaf.shape))
    for path, leaf in flat.items()
  }
  wrong = [
    f"{names[path]} {state[names[path]].shape} for {flat[path].shape}"
    for path, leaf in leaves.items()
    if leaf.shape != flat[path].shape
  ]
  if wrong:
    raise ValueError(f"The checkpoint has wrong shapes: {_listing(wrong)}.")
  return flax.traverse_util.unflatten_dict(
    {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
  )


def check_names(wanted: Iterable[str], state: State) -> None:
  """Raises ValueError unless the state holds exactly the wanted names."""
  missing = sorted(set(wanted) - set(state))
  unused = sorted(set(state) - set(wanted))
  faults = [
    f"{what}: {_listing(names)}"
    for what, names in (("missing", missing), ("unused", unused))
    if names
  ]
  if faults:
    raise ValueError(f"The checkpoint does not fit, {'; '.join(faults)}.")


def from_tensor(path: ParamPath, tensor: np.ndarray, ndim: int) -> np.ndarray:
  """The parameter that a tensor is: `TABLES` as they are, else `to_flax`."""
  return tensor if path[-1] in TABLES else to_flax(tensor, ndim)


def to_tensor(
  path: ParamPath, leaf: np.ndarray, ndim: int | None = None
) -> np.ndarray:
  """A parameter's tensor: `TABLES` as they are, else `to_torch`."""
  return np.asarray(leaf) if path[-1] in TABLES else to_torch(leaf, ndim)


def to_flax(tensor: np.ndarray, ndim: int) -> np.ndarray:
  """A PyTorch weight in Flax's layout, of `ndim` axes.

  Convolutions OIHW -> HWIO; dense layers OI, or OI with trailing axes of 1,
  -> IO; others as they are.
  """
  if ndim == 4 and tensor.ndim == 4:
    return tensor.transpose(2, 3, 1, 0)
  if ndim == 2 and tensor.shape[2:] in ((), (1,), (1, 1)):
    return tensor.reshape(tensor.shape[:2]).T
  return tensor


def to_torch(leaf: np.ndarray, ndim: int | None = None) -> np.ndarray:
  """The inverse of `to_flax`, with trailing axes of 1 up to `ndim`."""
  tensor = np.asarray(leaf)
  if tensor.ndim == 4:
    tensor = tensor.transpose(3, 2, 0, 1)
  elif tensor.ndim == 2:
    tensor = tensor.T
  return tensor.reshape(tensor.shape + (1,) * ((ndim or 0) - tensor.ndim))


def _widen(tensor: np.ndarray) -> np.ndarray:
  floating = jnp.issubdtype(tensor.dtype, jnp.floating)
  return np.asarray(tensor, np.float32) if floating else tensor


def _listing(names: list[str], count: int = 3) -> str:
  more = len(names) - count
  first = ", ".join(shown(name)[1:-1] for name in names[:count])
  return first + (f" and {more} more" if more > 0 else "")


def _import_safetensors():
  try:
    import safetensors
  except ImportError as error:
    raise ImportError(
      "safetensors files need `pip install 'jaxgen[experiments]'`."
    ) from error
  return safetensors
