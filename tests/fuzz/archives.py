"""Ways to break zip archives and what lies in them: pickles, arrays."""

import functools
import io
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from .mutate import Rng, any_bytes, choice, number, text

_BOMB = 96 * 2**20


def mutate_zip(rng: Rng, data: bytes) -> bytes:
  """Changes a record and writes a whole archive around it."""
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    records = [(name, archive.read(name)) for name in archive.namelist()]
  place = int(rng.integers(len(records)))
  name, content = records[place]
  kinds = [zipfile.ZIP_STORED] * len(records)
  kind = rng.random()
  if kind < 0.6:
    records[place] = (name, _mutate_record(rng, name, content))
  elif kind < 0.68:
    records[place] = (choice(rng, _NAMES) + name, content)
  elif kind < 0.74:
    records[place] = (text(rng).replace("\ud800", "") or "x", content)
  elif kind < 0.8:
    records.append((name, _mutate_record(rng, name, content)))
    kinds.append(zipfile.ZIP_STORED)
  elif kind < 0.86:
    del records[place], kinds[place]
  elif kind < 0.92:
    kinds[place] = choice(rng, (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as archive:
    for (name, content), how in zip(records, kinds, strict=True):
      archive.writestr(name, content, how)
  if kind >= 0.97:
    return _bomb(name)
  if kind >= 0.92:  # sizes and offsets of the directory
    return _mutate_directory(rng, out.getvalue())
  return out.getvalue()


_NAMES = ("../", "/", "../../", "archive/", "./", "archive/data/", "\\")


def _mutate_record(rng: Rng, name: str, content: bytes) -> bytes:
  if name.endswith(".pkl"):
    return mutate_pickle(rng, content)
  if name.endswith(".npy"):
    return mutate_npy(rng, content)
  return any_bytes(rng, content)


def _mutate_directory(rng: Rng, data: bytes) -> bytes:
  starts = [m.start() for m in re.finditer(rb"PK(\x01\x02|\x03\x04)", data)]
  start = choice(rng, starts)
  out = bytearray(data)
  place = start + int(rng.integers(4, 46))
  code = choice(rng, "HI")
  value = number(rng) % 2 ** (8 * struct.calcsize(code))
  raw = struct.pack("<" + code, value)
  out[place : place + len(raw)] = raw
  return bytes(out)


@functools.cache
def _bomb(name: str) -> bytes:
  """A record of zeros that unpacks to a thousand times its size."""
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
    content = bytes(_BOMB)
    if name.endswith(".npy"):
      head = io.BytesIO()
      header = {"descr": "|u1", "fortran_order": False, "shape": (_BOMB,)}
      np.lib.format.write_array_header_1_0(head, header)
      content = head.getvalue() + content
    archive.writestr(name, content)
  return out.getvalue()


@functools.cache
def zlib_bomb() -> bytes:
  return zlib.compress(bytes(_BOMB), 9)


# Arrays


def mutate_npy(rng: Rng, data: bytes) -> bytes:
  """Rewrites the header: shapes, kinds of numbers, or anything."""
  if rng.random() < 0.2:
    return any_bytes(rng, data)
  version, length = data[6], int.from_bytes(data[8:10], "little")
  header, rest = data[10 : 10 + length].decode("latin1"), data[10 + length :]
  kind = rng.random()
  if kind < 0.5:
    shape = ", ".join(str(number(rng)) for _ in range(rng.integers(0, 5)))
    shape = choice(rng, (shape + ",", "0," + shape, "1," * 70, "(1,),", "True"))
    new = f"'shape': ({shape})"
    header = re.sub(r"'shape': \(.*?\)", lambda _: new, header)
  elif kind < 0.8:
    codes = ("|O", "<f8", "<f4", "|u1", "<U9", "|S0", "<f16", "<M8[s]", "|V9")
    code = repr(choice(rng, (*codes, "<i8", "<c16", "f4,O", "x", "(9,)f4")))
    code = choice(rng, (code, code, "[('a', '|O')]", "[('a', '<f4', (9, 9))]"))
    header = re.sub(r"'descr': '.*?'", lambda _: f"'descr': {code}", header)
  elif kind < 0.9:
    header = any_bytes(rng, header.encode()).decode("latin1")
  else:
    deep = "(" * choice(rng, (50, 5000)) + ")"
    attack = "__import__('os').system('true')"
    header = choice(rng, ("{}", deep, attack, "1" * 60_000, header * 2))
  head = header.encode("latin1", "replace")[:65_535]
  version = choice(rng, (1, 1, 1, 1, 2, 3, version, 255))
  size = struct.pack("<H" if version == 1 else "<I", len(head))
  return b"\x93NUMPY" + bytes([version, 0]) + size + head + rest


# Pickles


def instructions(data: bytes) -> tuple[list[bytes], bytes]:
  """The instructions of the pickles that begin a file, and what follows."""
  found: list[bytes] = []
  start = 0
  while data[start : start + 1] == b"\x80":
    places = [place for _, _, place in pickletools.genops(data[start:])]
    ends = [*places[1:], places[-1] + 1]
    code = data[start:]
    found += [code[a:b] for a, b in zip(places, ends, strict=True)]
    start += ends[-1]
  return found, data[start:]


def pushed(value: Any) -> bytes:
  """The instructions that push a plain value."""
  return pickle.dumps(value, 2)[2:-1]


_TWICE = b"2\x86"  # the tuple of a value and itself
_NESTED = b")" + _TWICE * 60  # 2^60 parts in 120 bytes
_DEEP = b")" + b"\x85" * 60_000
_STORAGE = b"ctorch\nFloatStorage\n"
_HOSTILE = (
  *(b"R", b"b", b"\x81", b"\x92", b"\x93", b"i", b"o", b"Q", b"P0\n", b"2"),
  *(b"0", b"1", b"(", b"t", b"l", b"d", b"e", b"u", b"s", b"a", b"]", b"}"),
  *(b")", b"\x8f", b"\x90", b"\x91", b"N", b"\x88", b"\x94", b".", b"\x98"),
  *(b"cos\nsystem\n", b"c__builtin__\neval\n", b"cbuiltins\nexec\n"),
  *(b"X\x04\0\0\0trueR", b"cos\nsystem\nX\x04\0\0\0true\x85R"),
  *(b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R", b"cnumpy\nload\n"),
  *(b"cbuiltins\ngetattr\n", b"(X\x04\0\0\0trueios\nsystem\n", b"\x82\x01"),
  *(b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nset\n"),
  *(b"}" + _NESTED + b"Ns", _NESTED, _NESTED + b"Q", b"N" + _NESTED + b"R"),
  *(b"\x8f(" + _NESTED + b"\x90", b"(" + _NESTED + b"\x91", _DEEP),
  *(b"}" + _DEEP + b"Ns", b"(" + _DEEP + b"Nd", b"]" * 9000 + b"a" * 8999),
  *(b"(X\x07\0\0\0storage" + _STORAGE + _NESTED + b"Nh\0tQ", b"2" * 5000),
  # A long list once, copied often.
  b"](" + b"N" * 20_000 + b"er\xff\0\0\0"
  b"0" + b"ctorch\nSize\nj\xff\0\0\0\x85R" * 2_000,
  b"((" + b"N" * 20_000 + b"tr\xff\0\0\00" + b"ca\nb\nj\xff\0\0\0}\x92" * 2_000,
  b"\x8a\xff" + b"\xff" * 255,
  b"\x8b\xff\xff\xff\x7f",
  b"\x8b\xff\xff\xff\xff",
  b"X\xff\xff\xff\xff",
  b"T\xff\xff\xff\xff",
  b"\x8e" + b"\xff" * 8,
  b"\x8d" + b"\xff" * 7 + b"\x7f",
  b"\x95" + b"\xff" * 8,
  b"j\xff\xff\xff\xff",
  b"r\xff\xff\xff\xff",
  b"I" + b"9" * 5000 + b"\n",
  b"L" + b"9" * 5000 + b"L\n",
  b"S'\\x00" + b"a" * 100 + b"'\n",
)


def mutate_pickle(rng: Rng, data: bytes) -> bytes:
  """Drops, repeats, exchanges, inserts and rewrites instructions."""
  if rng.random() < 0.1:
    return any_bytes(rng, data)
  code, rest = instructions(data)
  for _ in range(int(rng.integers(1, 4))):
    place = int(rng.integers(len(code)))
    kind = rng.random()
    if kind < 0.1:
      del code[place]
    elif kind < 0.2:
      code.insert(place, choice(rng, code))
    elif kind < 0.3:
      other = int(rng.integers(len(code)))
      code[place], code[other] = code[other], code[place]
    elif kind < 0.6:
      code.insert(place, choice(rng, _HOSTILE))
    elif kind < 0.7:
      code[place] = choice(rng, _HOSTILE)
    else:
      numbers = [i for i, c in enumerate(code) if c[:1] in b"KMJ\x8a"]
      names = [i for i, c in enumerate(code) if c[:1] in b"Xc\x8c"]
      value: Any = choice(rng, (number(rng), number(rng), None, 0.5, ()))
      if rng.random() < 0.3 and names:
        numbers, value = names, text(rng).replace("\ud800", "")
      place = choice(rng, numbers or names)
      code[place] = pushed(value)
  return b"".join(code) + rest
