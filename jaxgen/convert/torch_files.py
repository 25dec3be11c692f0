"""PyTorch files (.pt, .pth, .ckpt) without PyTorch, executing nothing.

A file holds a pickle and, beside it, the raw numbers of its tensors, called
storages. Since PyTorch 1.6 both are records of a zip archive; before, five
pickles follow one another and the storages come last.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxgen.convert import pickles, torch_tensors
from jaxgen.convert.pickles import Opaque
from jaxgen.convert.state import read_safetensors
from jaxgen.convert.torch_tensors import Resolver, Storage, Tensor
from jaxgen.messages import reason, shown
from jaxgen.zip_files import open_bounded

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

# An object, its arrays still `Tensor`, and the bytes of a storage.
_Content = tuple[Any, Callable[[Storage], bytes | memoryview]]


def read_torch(path: str | Path) -> Any:
  """The content of a PyTorch file.

  Tensors and parameters become read-only numpy arrays; those that shared
  their numbers still do; bfloat16 and 8-bit floats become float32. Ordered
  and default dictionaries become dict, torch.Size a tuple. Objects of any
  other class are not made: a `pickles.Opaque` holds the name of the class and
  the attributes.

  Args:
    path: of a file that `torch.save` wrote, of whatever version.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, of another kind, or names a function
      that runs programs or code, as attacks do.
  """
  return _read(path, lambda content: content)


def read_state(
  path: str | Path, key: str | None = None
) -> dict[str, np.ndarray]:
  """The flat state dictionary of a checkpoint file: tensor name -> array.

  Floating point tensors become float32, the others stay what they are.

  Args:
    path: a PyTorch file, or a safetensors file if its suffix is .safetensors.
    key: the entry of the file that is the state dictionary. By default it is
      the whole file, or its only entry that is one, like "state_dict" in
      PyTorch Lightning's checkpoints.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: like `read_torch`, or if there is no such entry, or several
      and no key.
  """
  if Path(path).suffix != ".safetensors":
    return _read(path, lambda content: _state(content, key), to_float32=True)
  if key is not None:
    raise ValueError(
      f"Cannot read {key!r} of {path}: safetensors have no keys."
    )
  return read_safetensors(path)


def is_script(path: str | Path) -> bool:
  """Whether a file holds a TorchScript program, as OpenAI's CLIP does."""
  if not zipfile.is_zipfile(path):
    return False
  with zipfile.ZipFile(path) as archive:
    return any(_is_constants(name) for name in archive.namelist())


def read_script_state(path: str | Path) -> dict[str, np.ndarray]:
  """The state dictionary of the module in a TorchScript file.

  A saved program is an archive of code and, beside it, of the module's tensors
  in a pickle. The tensors are read as `read_state` reads them, the code is not.

  Args:
    path: of a file that `torch.jit.save` wrote.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: like `read_torch`, or if it holds no program.
  """
  return _read(path, _script_tensors, to_float32=True, script=True)


def _script_tensors(module: Any) -> dict[str, Tensor]:
  """The tensors of a scripted module, whose parts are among its attributes."""
  attributes = module.state if isinstance(module, Opaque) else None
  if not isinstance(attributes, dict):
    raise ValueError("its program has no module")
  tensors: dict[str, Tensor] = {}
  for name, value in attributes.items():
    if isinstance(value, Tensor):
      tensors[name] = value
    elif isinstance(value, Opaque) and isinstance(value.state, dict):
      for inner, tensor in _script_tensors(value).items():
        tensors[f"{name}.{inner}"] = tensor
  return tensors


def _is_constants(name: str) -> bool:
  """Whether a record of an archive tells that it is a program."""
  return name.count("/") == 1 and name.endswith("/constants.pkl")


def _state(content: Any, key: str | None) -> dict[str, Tensor]:
  """The state dictionary that is meant."""
  if key is None and _is_state(content):
    return content
  entries = content if isinstance(content, dict) else {}
  states = [name for name, entry in entries.items() if _is_state(entry)]
  if key is None and len(states) == 1:
    return entries[states[0]]
  if key in states:
    return entries[key]
  wanted = "which is meant" if key is None else f"not {key!r}"
  raise ValueError(
    f"it holds the state dictionaries {', '.join(map(shown, states))}, {wanted}"
    if states
    else "it holds no state dictionary"
  )


def _is_state(content: Any) -> bool:
  return (
    isinstance(content, dict)
    and len(content) > 0
    and all(isinstance(name, str) for name in content)
    and all(isinstance(value, Tensor) for value in content.values())
  )


def _read(
  path: str | Path,
  choose: Callable[[Any], Any],
  to_float32: bool = False,
  script: bool = False,
) -> Any:
  """The chosen part of a file, all that can go wrong being a ValueError."""
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no checkpoint file {path}.")
  with open_bounded(path) as file:
    try:
      zipped = file.read(4) == b"PK\x03\x04"
      if script and not is_script(path):
        raise ValueError("it is no TorchScript program")
      content, read = _read_zip(file, script) if zipped else _read_legacy(file)
      return Resolver(read, to_float32).resolve(choose(content))
    except ValueError as error:
      raise ValueError(f"Cannot read {path}: {reason(error)}.") from error
    except (
      *(TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError),
      *(OSError, MemoryError, EOFError, zipfile.BadZipFile, struct.error),
    ) as error:
      kind = type(error).__name__
      raise ValueError(
        f"Cannot read {path}: it is damaged ({kind}: {reason(error)})."
      ) from error


def _read_zip(file: BinaryIO, script: bool) -> _Content:
  archive = zipfile.ZipFile(file)
  infos = {info.filename: info for info in archive.infolist()}
  length = os.fstat(file.fileno()).st_size
  if len(infos) < len(archive.infolist()):
    # Two readers could see two different files in it.
    raise ValueError("its archive has two records of one name")

  def record(name: str) -> bytes:
    if name not in infos:
      raise ValueError(f"its archive has no record {name}")
    return archive.read(infos[name])  # which compares the checksum

  suffix = "/data.pkl"
  roots = [name.removesuffix(suffix) for name in infos if name.endswith(suffix)]
  if len(roots) != 1:
    raise ValueError(f"its archive has {len(roots)} records data.pkl, not one")
  root = roots[0]
  if f"{root}/constants.pkl" in infos and not script:
    raise ValueError("it is a TorchScript program, not a saved object")
  # The code of a program is compressed, and not read.
  infos = {
    name: info
    for name, info in infos.items()
    if not (script and name.startswith(f"{root}/code/"))
  }
  for name, info in infos.items():
    if info.compress_type != zipfile.ZIP_STORED:
      raise ValueError(f"its record {name} is compressed")
  # PyTorch does not compress: records that do not share bytes fit the file.
  if sum(info.file_size for info in infos.values()) > length:
    raise ValueError("the records of its archive are larger than the file")
  if f"{root}/byteorder" in infos:
    order = record(f"{root}/byteorder")
    if order != b"little":
      raise ValueError(f"its byte order is {shown(order)}, not little")
  content = pickles.load(
    io.BytesIO(record(root + suffix)),
    torch_tensors.CONSTRUCTORS,
    torch_tensors.storage,
  )
  return content, lambda storage: record(f"{root}/data/{storage.key}")


def _read_legacy(file: BinaryIO) -> _Content:
  file.seek(0)
  data = file.read()
  stream = io.BytesIO(data)
  storages: dict[str, Storage] = {}

  def find(persistent_id: Any) -> Any:
    found = torch_tensors.storage(persistent_id)
    if isinstance(found, Storage):
      storages[found.key] = found
    return found

  def load() -> Any:
    return pickles.load(stream, torch_tensors.CONSTRUCTORS, find)

  if data[:1] != b"\x80" or load() != _MAGIC_NUMBER:
    raise ValueError("it begins like another kind of file than PyTorch's")
  protocol, system, content, keys = load(), load(), load(), load()
  if protocol != _PROTOCOL or system["little_endian"] is not True:
    raise ValueError(
      f"it has protocol {shown(protocol)} of a system {shown(system)}"
    )
  parts = {}
  for key in keys:
    # A tuple of tuples can take years to look up.
    if type(key) is not str or key not in storages:
      raise ValueError(f"none of its tensors has the storage {shown(key)}")
    size = int.from_bytes(stream.read(8), "little")
    length = storages[key].num_bytes
    if size != storages[key].size or stream.tell() + length > len(data):
      raise ValueError(f"it does not hold all of storage {shown(key)}")
    parts[key] = memoryview(data)[stream.tell() :][:length]
    stream.seek(length, io.SEEK_CUR)
  return content, lambda storage: parts[storage.key]
