"""Ways to break bytes, text and JSON, whatever the format."""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator
Mutation = Callable[[Rng, bytes], bytes]

NUMBERS = (
  *(0, 1, -1, 2, 63, 127, 128, 255, 256, 65_535, 65_536, 10**9, 2**31 - 1),
  *(2**31, -(2**31), 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63),
  *(-(2**63), 2**64 - 1, 2**64, 10**30),
)


def choice(rng: Rng, values: Any) -> Any:
  """One of the values, as it is."""
  return values[int(rng.integers(len(values)))]


def number(rng: Rng) -> int:
  """A number that readers stumble over."""
  return choice(rng, NUMBERS)


def text(rng: Rng) -> str:
  """A name that readers stumble over."""
  return choice(
    rng,
    (
      *("", ".", "..", "../../secret", "/etc/passwd", "C:\\x", "a/b", "~"),
      *("new\nline", "nul\0", "\x1b[31m", "\ud800", "é" * 300, "a" * 5000),
      *("%s%n", "{0}", "__class__", "__proto__", "O", "|O", "float8_e5m2"),
    ),
  )


def flip_bits(rng: Rng, data: bytes) -> bytes:
  out = bytearray(data)
  for place in rng.integers(len(data), size=rng.integers(1, 9)):
    out[place] ^= 1 << int(rng.integers(8))
  return bytes(out)


def set_bytes(rng: Rng, data: bytes) -> bytes:
  out = bytearray(data)
  for place in rng.integers(len(data), size=rng.integers(1, 5)):
    out[place] = choice(rng, (0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))))
  return bytes(out)


def set_number(rng: Rng, data: bytes) -> bytes:
  """A length, offset or count somewhere, of any width and byte order."""
  code = choice(rng, "BHIQ")
  width = struct.calcsize(code)
  value = number(rng) % 2 ** (8 * width)
  raw = struct.pack(choice(rng, "<>") + code, value)
  # Most formats keep theirs at the front or at the end.
  span = choice(rng, (16, 64, 256, len(data)))
  place = int(rng.integers(max(1, min(span, len(data)) - width + 1)))
  if rng.random() < 0.3:
    place = max(0, len(data) - width - place)
  return data[:place] + raw + data[place + width :]


def truncate(rng: Rng, data: bytes) -> bytes:
  return data[: int(rng.integers(len(data)))]


def _block(rng: Rng, data: bytes) -> tuple[int, int]:
  start = int(rng.integers(len(data)))
  return start, start + int(rng.integers(1, 1 + max(1, len(data) // 4)))


def duplicate(rng: Rng, data: bytes) -> bytes:
  start, stop = _block(rng, data)
  return data[:stop] + data[start:stop] * int(rng.integers(1, 4)) + data[stop:]


def delete(rng: Rng, data: bytes) -> bytes:
  start, stop = _block(rng, data)
  return data[:start] + data[stop:]


def move(rng: Rng, data: bytes) -> bytes:
  start, stop = _block(rng, data)
  rest = data[:start] + data[stop:]
  place = int(rng.integers(len(rest) + 1))
  return rest[:place] + data[start:stop] + rest[place:]


def insert(rng: Rng, data: bytes) -> bytes:
  place = int(rng.integers(len(data) + 1))
  return data[:place] + rng.bytes(int(rng.integers(1, 64))) + data[place:]


def extend(rng: Rng, data: bytes) -> bytes:
  return data + rng.bytes(int(rng.integers(1, 4096)))


BYTES: tuple[Mutation, ...] = (
  *(flip_bits, set_bytes, set_number, set_number, truncate, duplicate),
  *(delete, move, insert, extend),
)


def any_bytes(rng: Rng, data: bytes) -> bytes:
  """One or a few of the blind ways."""
  for _ in range(int(rng.integers(1, 4))):
    data = choice(rng, BYTES)(rng, data or b"\0")
  return data


# JSON and text


def json_value(rng: Rng) -> Any:
  """A value of any kind, as raw JSON text."""
  deep = choice(rng, (3, 200, 990, 5_000, 100_000))
  return choice(
    rng,
    (
      *("null", "true", "0", "-0.0", "1e999", "NaN", "-Infinity", "[]", "{}"),
      *('""', "[[]]", '{"a": {}}', "1" * 5000, json.dumps(text(rng))),
      *(str(number(rng)), str(number(rng)), str(-number(rng)), "0.5"),
      *("[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep, "[" * deep),
      *(f"[{number(rng)}, {number(rng)}]", json.dumps([text(rng)] * 3)),
    ),
  )


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
  found = [path]
  entries: Any = ()
  if isinstance(value, dict):
    entries = value.items()
  elif isinstance(value, list):
    entries = enumerate(value)
  for key, entry in entries:
    found += _places(entry, (*path, key))
  return found


def mutate_json(rng: Rng, data: bytes) -> bytes:
  """Replaces, deletes, renames or repeats a node."""
  try:
    tree = json.loads(data)
  except (ValueError, RecursionError):
    return any_bytes(rng, data)
  *parents, last = ("", *choice(rng, _places({"": tree})[1:]))[1:]
  holder: Any = {"": tree}
  root = holder
  for key in parents:
    holder = holder[key]
  mark = "@@place@@"
  kind = rng.random()
  if kind < 0.7:
    holder[last] = mark
  elif kind < 0.85:
    del holder[last]
  elif isinstance(holder, dict):
    holder[text(rng)] = holder.pop(last)
  else:
    holder[last:last] = [holder[last]] * int(rng.integers(1, 100))
  if "" not in root:
    return json_value(rng).encode()
  raw = json.dumps(root[""]).replace(json.dumps(mark), json_value(rng))
  if rng.random() < 0.1:  # a key twice
    raw = raw.replace("{", '{"' + str(last) + '": 1, ', 1)
  return raw.encode("utf-8", "surrogatepass")


def mutate_lines(rng: Rng, data: bytes) -> bytes:
  """Repeats, drops, exchanges or rewrites a line."""
  lines = data.split(b"\n")
  place = int(rng.integers(len(lines)))
  kind = int(rng.integers(6))
  if kind == 0:
    del lines[place]
  elif kind == 1:
    lines[place:place] = [lines[place]] * choice(rng, (1, 2, 1000))
  elif kind == 2:
    other = int(rng.integers(len(lines)))
    lines[place], lines[other] = lines[other], lines[place]
  elif kind == 3:
    lines[place] = text(rng).encode("utf-8", "surrogatepass")
  elif kind == 4:
    strange = (b"\xff\xfe", b"\0", b"\r", "\u2028".encode(), b" ", b"\t")
    lines[place] += choice(rng, strange) + lines[place]
  else:
    lines[place] = lines[place][::-1] * choice(rng, (1, 100))
  return b"\n".join(lines)
