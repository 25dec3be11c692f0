"""PyTorch's files written by hand, with any pickle in them."""

import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
NUMBERS = np.arange(12, dtype=np.float32)


class Call:
  """Pickles as a call of any function."""

  def __init__(self, function, *args):
    self.reduced = (function, args)

  def __reduce__(self):
    return self.reduced


class Coder(pickle._Pickler):
  """Writes pieces of pickles as they are."""

  def save(self, value, save_persistent_id=True):
    if isinstance(value, Code):
      self.write(value.code)
    else:
      super().save(value, save_persistent_id)


class Code:
  def __init__(self, code):
    self.code = code


def encode(value, protocol=2):
  out = io.BytesIO()
  Coder(out, protocol).dump(value)
  return out.getvalue()


def body(value):
  """The instructions that push a value."""
  return encode(value)[2:-1]


def named(module, name):
  return Code(f"c{module}\n{name}\n".encode())


def called(function, *args):
  return Code(function.code + body(args) + b"R")


def tensor(offset=0, shape=(12,), strides=(1,), kind="FloatStorage", size=12):
  persistent_id = ("storage", named("torch", kind), "0", "cpu", size)
  storage = Code(body(persistent_id) + b"Q")
  rebuild = named("torch._utils", "_rebuild_tensor_v2")
  return called(rebuild, storage, offset, shape, strides, False, {})


def write_zip(path, content, storages=(), protocol=2, **records):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", encode(content, protocol))
    for key, data in dict(storages).items():
      archive.writestr(f"archive/data/{key}", data)
    for name, data in records.items():
      archive.writestr(f"archive/{name}", data)


def write_legacy(path, content, storages=(), protocol=2, system=SYSTEM):
  storages = dict(storages)
  head = (MAGIC_NUMBER, 1001, system, content, list(storages))
  with open(path, "wb") as file:
    for value in head:
      file.write(encode(value, protocol))
    for data in storages.values():
      file.write(struct.pack("<q", len(data) // 4) + data)
