"""What hostile files of tensors try, by name, each refused at once."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from torch_pickles import (
  MAGIC_NUMBER,
  NUMBERS,
  SYSTEM,
  Code,
  body,
  called,
  encode,
  named,
  tensor,
  write_legacy,
  write_zip,
)

from jaxgen.convert import dalle_dvae, ddpm
from jaxgen.convert.flax_files import read_msgpack
from jaxgen.convert.state import read_safetensors, write_safetensors
from jaxgen.convert.torch_files import read_state, read_torch
from jaxgen.messages import reason, shown
from jaxgen.metrics.files import open_images, read_images, read_statistics
from jaxgen.zip_files import BoundedReader

from . import seeds
from .refusal import refused

pytestmark = pytest.mark.usefixtures("quick")
WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])
NESTED = b")" + b"2\x86" * 60  # a tuple of 2^60 parts
DEEP = b")" + b"\x85" * 100_000  # whose hash would overflow C's stack


# Pickles


@WRITERS
@pytest.mark.parametrize(
  ("code", "match"),
  [
    (b"}" + NESTED + b"Ns", "a key of over 1000 parts"),
    (b"}" + DEEP + b"Ns", "a key of over 1000 parts"),
    (b"}(" + NESTED + b"Nu", "a key of over 1000 parts"),
    (b"(" + NESTED + b"Nd", "a key of over 1000 parts"),
    (b"\x8f(" + NESTED + b"\x90", "a key of over 1000 parts"),
    (b"(" + NESTED + b"\x91", "a key of over 1000 parts"),
    (b"cbuiltins\nset\n(" + NESTED + b"l\x85R", "a key of over 1000 parts"),
    (b"cbuiltins\nfrozenset\n(" + NESTED + b"t\x85R", "a key of over 1000"),
    (
      b"ccollections\nOrderedDict\n(" + NESTED + b"N\x86l\x85R",
      "a key of over 1000 parts",
    ),
    (b"(X\x07\0\0\0storagectorch\nFloatStorage\n" + NESTED + b"NK\1tQ", "stor"),
    (b"(" + NESTED + b"ctorch\nX\nNNK\1tQ", "it refers to a"),
  ],
  ids=lambda value: "",
)
def test_small_pickles_of_huge_values(tmp_path, write, code, match):
  write(tmp_path / "x.pt", Code(code))
  refused(read_torch, tmp_path / "x.pt", match=match)


def test_a_storage_whose_name_is_huge(tmp_path):
  """To look such a tuple up takes years, and no signal ends it."""
  head = (MAGIC_NUMBER, 1001, SYSTEM, {"w": tensor()}, [Code(NESTED)])
  parts = [encode(value, 2) for value in head]
  (tmp_path / "x.pt").write_bytes(b"".join(parts) + bytes(64))
  refused(read_torch, tmp_path / "x.pt", match="none of its tensors has the st")


@WRITERS
@pytest.mark.parametrize(
  "call",
  [
    b"ctorch\nSize\nh\0\x85R",
    b"cbuiltins\nset\nh\0\x85R",
    b"ctorch._utils\n_rebuild_parameter\nh\0R",
    b"ca\nb\nh\0}\x92",
    b"h\0Q",
  ],
)
def test_copies_of_a_long_value(tmp_path, write, call):
  """10,000 calls that each copy 10,000 values: 800 MB from 200 kB."""
  code = (
    b"((" + b"N" * 10_000 + b"tq\x00" + b"0" + (call + b"0") * 10_000 + b"t"
  )
  write(tmp_path / "x.pt", Code(code))
  refused(
    read_torch, tmp_path / "x.pt", match="copies more than it holds|damag"
  )


@WRITERS
def test_a_view_that_repeats_a_number(tmp_path, write):
  content = {"w": tensor(shape=(2**40,), strides=(0,))}
  write(tmp_path / "x.pt", content, {"0": NUMBERS.tobytes()})
  refused(read_torch, tmp_path / "x.pt", match="repeats the 12 numbers")


@WRITERS
def test_shapes_that_overflow(tmp_path, write):
  for shape, strides in (
    ((2**63,), (1,)),
    ((2**32, 2**32), (0, 0)),
    ((2**62, 4), (0, 1)),
    ((2**31, 2**31, 2**31), (0, 0, 0)),
  ):
    content = {"w": tensor(shape=shape, strides=strides)}
    write(tmp_path / "x.pt", content, {"0": NUMBERS.tobytes()})
    refused(read_torch, tmp_path / "x.pt", match="Cannot read")


@WRITERS
def test_subclasses_call_tensors_alone(tmp_path, write):
  """The door of tensor subclasses leads to no other function."""
  rebuild = named("torch._tensor", "_rebuild_from_type_v2")
  kind, size = named("my", "Tensor"), named("torch", "Size")
  write(tmp_path / "x.pt", called(rebuild, size, kind, ((1, 2),), None))
  assert read_torch(tmp_path / "x.pt").name == "my.Tensor"
  attack = called(rebuild, named("os", "system"), kind, ("true",), None)
  write(tmp_path / "x.pt", attack)
  refused(read_torch, tmp_path / "x.pt", match=r"names os\.system")


@WRITERS
def test_arrays_of_objects(tmp_path, write):
  """numpy's own pickles, with a type that is a pointer."""
  for order in ("O,<", "(9999999,)<", "<f4,|O,"):
    kind = called(named("numpy", "dtype"), "f4", False, True)
    kind = Code(
      kind.code + body((3, order, None, None, None, -1, -1, 0)) + b"b"
    )
    scalar = named("numpy.core.multiarray", "scalar")
    write(tmp_path / "x.pt", called(scalar, kind, b"12345678"))
    assert read_torch(tmp_path / "x.pt").name.endswith("scalar")


# Archives


def test_a_record_twice(tmp_path):
  path = tmp_path / "x.pt"
  write_zip(path, {"w": 1})
  with (
    zipfile.ZipFile(path, "a") as archive,
    pytest.warns(UserWarning, match="Duplicate"),
  ):
    archive.writestr("archive/data.pkl", b"\x80\x02K\x01.")
  refused(read_torch, path, match="two records of one name")


def test_records_that_share_their_bytes(tmp_path):
  """Each 1 MB, all of them the same: 100 MB from 1 MB."""
  path = tmp_path / "x.pt"
  write_zip(path, {"w": 1}, **{"data/0": bytes(2**20)})
  data = bytearray(path.read_bytes())
  start = data.index(b"PK\x01\x02")
  end = data.index(b"PK\x05\x06")
  entries = bytes(data[start:end])
  last = entries[entries.rindex(b"PK\x01\x02") :]
  copies = b"".join(
    last.replace(b"data/0", b"data/%c" % (65 + i)) for i in range(20)
  )
  total = struct.pack("<HHI", 22, 22, len(entries + copies))
  tail = bytes(data[end : end + 8]) + total + bytes(data[end + 16 :])
  path.write_bytes(bytes(data[:start]) + entries + copies + tail)
  refused(read_torch, path, match="larger than the file")


def test_a_directory_of_4_gigabytes(tmp_path):
  """Nothing may be allocated for what an archive only says that it has."""
  path = tmp_path / "x.pt"
  write_zip(path, {"w": 1})
  data = bytearray(path.read_bytes())
  end = data.rindex(b"PK\x05\x06")
  data[end + 12 : end + 16] = b"\xff" * 4
  path.write_bytes(data)
  with BoundedReader(io.FileIO(path)) as file:
    assert len(file.read(2**62)) == len(data)
    assert file.read(2**62) == b""
  refused(read_torch, path, match="Cannot read")


def test_names_that_lead_out_are_only_names(tmp_path):
  folder = tmp_path / "inner"
  folder.mkdir()
  with zipfile.ZipFile(folder / "x.pt", "w") as archive:
    archive.writestr("../data.pkl", b"\x80\x02K\x07.")
    archive.writestr("/tmp/../../evil", b"x")
  assert read_torch(folder / "x.pt") == 7
  assert os.listdir(tmp_path) == ["inner"]
  assert os.listdir(folder) == ["x.pt"]


def npz(path, header, content=b"", name="arr_0.npy", how=zipfile.ZIP_STORED):
  head = header.encode().ljust(118) + b"\n"
  start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head))
  with zipfile.ZipFile(path, "w", how) as archive:
    archive.writestr(name, start + head + content)


@pytest.mark.parametrize(
  ("shape", "descr"),
  [
    ("(2**40,)", "|u1"),
    (f"({2**63},)", "|u1"),
    (f"({2**32}, {2**32})", "|u1"),
    ("(-1, 4)", "|u1"),
    ("(10000000000,)", "<f8"),
    ("(1, 1, 1, 1)", "|O"),
    ("__import__('os').system('true')", "|u1"),
    ("(" * 5000, "|u1"),
  ],
)
def test_headers_of_arrays(tmp_path, shape, descr):
  path = tmp_path / "x.npz"
  npz(path, f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}")
  refused(read_images, path, match="is not a whole .npz file")
  refused(read_statistics, path, match="is not a whole .npz file")


def test_texts_of_characters_that_do_not_exist(tmp_path):
  path = tmp_path / "x.npz"
  for order in "<>":
    header = f"{{'descr': '{order}U1', 'fortran_order': False, 'shape': ()}}"
    npz(path, header, struct.pack(f"{order}I", 0x110000))
    refused(read_statistics, path, match="characters that do not exist")


def test_arrays_of_records(tmp_path):
  path = tmp_path / "x.npz"
  np.savez(path, mu=np.zeros(1), sigma=np.eye(1), about=np.zeros((), "U1, i4"))
  refused(read_statistics, path, match="objects or records")


def test_arrays_without_data(tmp_path):
  """2^40 images of no pixels, which a list would hold one by one."""
  path = tmp_path / "x.npz"
  shape = f"({2**40}, 0, 8, 3)"
  npz(path, f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}")
  refused(open_images, path, match="without data")


def test_a_zip_bomb(tmp_path):
  path = tmp_path / "x.npz"
  np.savez_compressed(path, arr_0=np.zeros(80 * 2**20, np.uint8))
  assert path.stat().st_size < 100_000
  refused(read_images, path, match="would unpack to over 6")


@pytest.mark.parametrize(
  "about",
  [
    *("[1]", "{}", "{", "[" * 100_000, '{"network": null}'),
    '{"source": "a", "digest": "b", "n": 1e99, "network": null}',
    '{"source": 1, "digest": "b", "n": 3, "network": null}',
    '{"source": "a", "digest": "b", "n": 3, "network": ["x"]}',
    '{"source": "a", "digest": "b", "n": -3, "network": null}',
  ],
)
def test_statistics_of_strange_origin(tmp_path, about):
  path = tmp_path / "x.npz"
  np.savez(path, mu=np.zeros(2), sigma=np.eye(2), about=np.array(about))
  refused(read_statistics, path, match="holds no statistics")


# Modules, safetensors, msgpack


def module(parts):
  state = {"_parameters": {}, "_buffers": {}, "_modules": parts}
  made = called(named("dall_e", "Part")).code
  return Code(made + body(state) + b"b")


def test_modules_within_themselves(tmp_path):
  path = tmp_path / "x.pkl"
  # q 99: the module; its part "a" is itself.
  code = b"ca\nb\n)R" + b"q\x63" + body({"_parameters": {}, "_buffers": {}})
  inner = b"X\x08\0\0\0_modules}X\x01\0\0\0ah\x63ss" + b"b"
  write_zip(path, Code(code + inner))
  refused(dalle_dvae.load, path, seeds.ENCODER, match="is there twice")
  shared = b"ca\nb\n)R" + body({"_parameters": {}, "_modules": {}}) + b"b"
  for _ in range(60):  # 2^60 parts
    shared = (
      b"ca\nb\n)R}X\x08\0\0\0_modules}X\x01\0\0\0a"
      + shared
      + b"q\x63sX\x01\0\0\0"
      b"bh\x63ssb"
    )
  write_zip(path, Code(shared))
  refused(dalle_dvae.load, path, seeds.ENCODER, match="is there twice")
  write_zip(path, {5: tensor()}, {"0": NUMBERS.tobytes()})
  refused(dalle_dvae.load, path, seeds.ENCODER, match="neither a module nor")


def test_names_that_are_no_line(tmp_path):
  path = tmp_path / "x.safetensors"
  write_safetensors(
    path, {"a\nb\x1b[31m" + "c" * 10_000: np.zeros(1, np.float32)}
  )
  state = read_safetensors(path)
  refused(ddpm.from_diffusers, state, seeds.UNET, match="no conv_in")
  state |= {"conv_in.weight": np.zeros((32, 3, 3, 3), np.float32)}
  refused(ddpm.from_diffusers, state, seeds.UNET, match="unused: a")


def test_deep_msgpack(tmp_path):
  path = tmp_path / "x.msgpack"
  path.write_bytes(b"\x91" * 10**6)
  refused(read_msgpack, path, match="not a whole Flax checkpoint")
  path.write_bytes(b"\xdd\xff\xff\xff\xff")  # a list of 2^32
  refused(read_msgpack, path, match="not a whole Flax checkpoint")


def test_safetensors_of_impossible_sizes(tmp_path):
  path = tmp_path / "x.safetensors"
  for shape in ([2**63], [2**32, 2**32], [-1], [2**40]):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    header = json.dumps({"w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(read_state, path, match="not a whole safetensors file")
  path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
  refused(read_state, path, match="not a whole safetensors file")


def test_messages_are_short():
  value = ()
  for _ in range(60):
    value = (value, value)
  long = ("x" * 10**6, b"x" * 10**6, [[[[[[1]]]]]], {"a": "b\nc"})
  for other in (value, *long):
    assert len(shown(other)) < 250
    assert "\n" not in shown(other)
  assert (
    shown(("a", 1, 0.5, None, True, b"x")) == "('a', 1, 0.5, None, True, b'x')"
  )
  assert reason(ValueError("two\n lines\x1b")) == "two lines?"
  assert reason(KeyError()) == "KeyError"


def test_keys_that_no_message_can_hold():
  """One within a thousand others, and one of 2^60 parts."""
  deep, wide = (), ()
  for _ in range(10_000):
    deep = (deep,)
  for _ in range(60):
    wide = (wide, wide)
  for key in (deep, wide):
    assert len(reason(KeyError(key))) < 300
  assert reason(KeyError("a")) == "'a'"
