"""The tensors in PyTorch's pickles: descriptions first, arrays on demand.

A pickle describes a tensor as a strided view of a storage, a row of raw
numbers that the file holds elsewhere. A damaged or hostile description is an
error before any number is read.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.convert.pickles import Opaque, keys
from jaxgen.messages import shown

_STORAGES = {
  "torch.DoubleStorage": "float64",
  "torch.FloatStorage": "float32",
  "torch.HalfStorage": "float16",
  "torch.BFloat16Storage": "bfloat16",
  "torch.LongStorage": "int64",
  "torch.IntStorage": "int32",
  "torch.ShortStorage": "int16",
  "torch.CharStorage": "int8",
  "torch.ByteStorage": "uint8",
  "torch.BoolStorage": "bool",
  "torch.ComplexDoubleStorage": "complex128",
  "torch.ComplexFloatStorage": "complex64",
  "torch.UntypedStorage": None,
  "torch.storage.UntypedStorage": None,
}
_WIDENED = {  # numpy itself does not know them
  name: np.dtype(getattr(jnp, name))
  for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
}
_DTYPES = _WIDENED | {
  name: np.dtype(name)
  for name in (*_STORAGES.values(), "uint16", "uint32", "uint64")
  if name is not None and name not in _WIDENED
}


@dataclasses.dataclass(frozen=True)
class Storage:
  """A row of numbers that tensors look at.

  Attributes:
    key: its name in the file.
    dtype: of the numbers; None if each tensor says how to read the bytes.
    size: in numbers, or in bytes where there is no dtype.
  """

  key: str
  dtype: str | None
  size: int

  @property
  def num_bytes(self) -> int:
    """The size in bytes."""
    return self.size * (_DTYPES[self.dtype].itemsize if self.dtype else 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
  """A strided view of a storage; offset and strides count numbers."""

  storage: Storage
  dtype: str
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def storage(persistent_id: Any) -> Any:
  """What a persistent id stands for: a storage, or the class of a module.

  Raises:
    ValueError: if it is none of the two.
  """
  kind, named, *rest = persistent_id
  if kind == "module":
    return named
  key, _, size, *view = rest
  if kind != "storage" or named.name not in _STORAGES or any(view):
    raise ValueError(
      f"it refers to a {shown(kind)[1:-1]} of type {shown(named.name)[1:-1]}"
    )
  if not isinstance(key, str) or not _are_counts(size):
    raise ValueError(f"storage {shown(key)} has size {shown(size)}")
  return Storage(key, _STORAGES[named.name], size)


def _tensor(storage: Any, *args: Any) -> Tensor:
  return _typed_tensor(storage, storage.dtype, *args[:3])


def _tensor_v3(storage: Any, *args: Any) -> Tensor:
  dtype = args[5].name.removeprefix("torch.")
  return _typed_tensor(storage, dtype, *args[:3])


def _typed_tensor(
  storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any
) -> Tensor:
  if dtype not in _DTYPES or storage.dtype not in (None, dtype):
    raise ValueError(
      f"a tensor of type {shown(dtype)} looks at a storage of "
      f"{shown(storage.dtype)}"
    )
  if len(shape) != len(strides) or not _are_counts(offset, *shape, *strides):
    raise ValueError(
      f"a tensor has offset {shown(offset)}, shape {shown(shape)} and strides "
      f"{shown(strides)}"
    )
  return Tensor(storage, dtype, offset, tuple(shape), tuple(strides))


def _from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
  """A tensor of a subclass or with attributes: the tensor alone."""
  if function.name in _TENSORS:
    return CONSTRUCTORS[function.name](*args)
  return Opaque(kind.name, args, state)


def _are_counts(*values: Any) -> bool:
  return all(type(value) is int and value >= 0 for value in values)


# Numbers that a tensor may have more than its storage, by strides of 0. A file
# of some bytes could hold a view of 2^60.
_REPEATED = 2**24


def _dictionary(items: Any = ()) -> dict[Any, Any]:
  pairs = items.items() if isinstance(items, dict) else items
  pairs = [(key, value) for key, value in pairs]
  keys(key for key, _ in pairs)
  return dict(pairs)


# All that a file can call, each of it harmless whatever the arguments.
CONSTRUCTORS: dict[str, Callable[..., Any]] = {
  "builtins.bytes": lambda: b"",
  "builtins.frozenset": lambda values=(): frozenset(keys(values)),
  "builtins.set": lambda values=(): set(keys(values)),
  "_codecs.encode": lambda text, _: text.encode("latin1"),
  "collections.Counter": _dictionary,
  "collections.OrderedDict": _dictionary,
  "collections.defaultdict": lambda _=None, *items: _dictionary(*items),
  "torch.Size": tuple,
  "torch._tensor._rebuild_from_type_v2": _from_type,
  "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
  "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_tensor_v3": _tensor_v3,
}
_TENSORS = {name for name in CONSTRUCTORS if "._rebuild_" in name} - {
  "torch._tensor._rebuild_from_type_v2"
}


class Resolver:
  """Puts arrays in the place of the tensors of a file."""

  def __init__(
    self,
    read: Callable[[Storage], bytes | memoryview],
    to_float32: bool = False,
  ) -> None:
    """Starts with nothing read.

    Args:
      read: the bytes of a storage.
      to_float32: of all floating point tensors.
    """
    self._read = read
    self._to_float32 = to_float32
    self._numbers: dict[tuple[str, str], np.ndarray] = {}
    self._done: dict[int, Any] = {}

  def resolve(self, value: Any) -> Any:
    """The value with its tensors as arrays; what was shared stays shared.

    Raises:
      ValueError: if a tensor reaches beyond its storage, or the storage is
        not of the size that it should have.
    """
    simple = (bool, int, float, complex, str, bytes, type(None))
    if isinstance(value, simple):
      return value
    if id(value) not in self._done:
      self._resolve_new(value)
    return self._done[id(value)]

  def _resolve_new(self, value: Any) -> None:
    # Lists, dictionaries and objects may contain themselves: note, then fill.
    done = self._done
    if isinstance(value, Tensor):
      done[id(value)] = self._view(value)
    elif isinstance(value, Storage):
      done[id(value)] = self._read_numbers(value, value.dtype or "uint8")
    elif isinstance(value, list):
      values: list[Any] = []
      done[id(value)] = values
      values.extend(map(self.resolve, value))
    elif isinstance(value, dict):
      entries: dict[Any, Any] = {}
      done[id(value)] = entries
      for key, entry in value.items():
        entries[self.resolve(key)] = self.resolve(entry)
    elif isinstance(value, (tuple, set, frozenset)):
      done[id(value)] = type(value)(map(self.resolve, value))
    elif isinstance(value, Opaque):
      done[id(value)] = opaque = Opaque(value.name)
      opaque.args = self.resolve(value.args)
      opaque.state = self.resolve(value.state)
      opaque.items = self.resolve(value.items)
      done[id(value)] = _numpy_value(opaque)
    else:
      raise ValueError("its pickle has no object at the end")

  def _view(self, tensor: Tensor) -> np.ndarray:
    numbers = self._read_numbers(tensor.storage, tensor.dtype)
    if 0 in tensor.shape:
      return np.empty(tensor.shape, numbers.dtype)
    # Along an axis of length 1 PyTorch's strides may be anything.
    axes = [
      (length, stride if length > 1 else 0)
      for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    ]
    last = tensor.offset + sum((n - 1) * stride for n, stride in axes)
    if last >= numbers.size:
      raise ValueError(
        f"a tensor reaches number {shown(last)} of storage "
        f"{shown(tensor.storage.key)}, which has {numbers.size}"
      )
    if math.prod(tensor.shape) > numbers.size + _REPEATED:
      raise ValueError(
        f"a tensor of shape {shown(tensor.shape)} repeats the {numbers.size} "
        f"numbers of storage {shown(tensor.storage.key)}"
      )
    return np.lib.stride_tricks.as_strided(
      numbers[tensor.offset :],
      tensor.shape,
      [stride * numbers.itemsize for _, stride in axes],
      writeable=False,
    )

  def _read_numbers(self, storage: Storage, dtype: str) -> np.ndarray:
    """All numbers of a storage, `[N]`."""
    if (storage.key, dtype) in self._numbers:
      return self._numbers[storage.key, dtype]
    data = self._read(storage)
    if len(data) != storage.num_bytes:
      raise ValueError(
        f"storage {shown(storage.key)} has {len(data)} bytes, not "
        f"{shown(storage.num_bytes)}"
      )
    if dtype == "bool":
      numbers = np.frombuffer(data, np.uint8) != 0
    else:
      numbers = np.frombuffer(data, _DTYPES[dtype])
    widen = self._to_float32 and numbers.dtype.kind == "f"
    if widen or dtype in _WIDENED:
      numbers = numbers.astype(np.float32, copy=False)
    numbers.flags.writeable = False
    self._numbers[storage.key, dtype] = numbers
    return numbers


_ORDERS = ("<", ">", "=", "|")


def _numpy_value(opaque: Opaque) -> Any:
  """numpy's pickled array or scalar of numbers; other objects as they are."""
  match = re.fullmatch(
    r"numpy\._?core\.multiarray\.(scalar|_reconstruct)", opaque.name
  )
  if match is None or opaque.args is None:
    return opaque
  scalar = match[1] == "scalar"
  if scalar:
    dtype, data = opaque.args
    shape, fortran_order = (), False
  else:
    _, shape, dtype, fortran_order, data = opaque.state
  code, order = dtype.args[0], dtype.state[1]
  if not re.fullmatch(r"[biufc]\d{1,2}", code) or order not in _ORDERS:
    return opaque
  if isinstance(data, str):  # Python 2's bytes
    data = data.encode("latin1")
  numbers = np.frombuffer(data, np.dtype(f"{order}{code}"))
  array = numbers.reshape(shape, order="F" if fortran_order else "C")
  return array[()] if scalar else array
