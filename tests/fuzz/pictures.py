"""Ways to break images, safetensors and msgpack files."""

import struct
import zlib
from typing import Any

import msgpack

from .archives import zlib_bomb
from .mutate import Rng, any_bytes, choice, mutate_json, number, text


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
  found, place = [], 8
  while place + 8 <= len(data):
    (length,) = struct.unpack(">I", data[place : place + 4])
    kind = data[place + 4 : place + 8]
    found.append((kind, data[place + 8 : place + 8 + length]))
    place += 12 + length
  return found


def write_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
  """A PNG file with the right checksums."""
  parts = [b"\x89PNG\r\n\x1a\n"]
  for kind, body in chunks:
    crc = zlib.crc32(kind + body)
    parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", crc)]
  return b"".join(parts)


def mutate_png(rng: Rng, data: bytes) -> bytes:
  """Breaks a chunk, or inserts one, and repairs the checksums."""
  if rng.random() < 0.2:
    return any_bytes(rng, data)
  chunks = _chunks(data)
  place = int(rng.integers(len(chunks)))
  kind, body = chunks[place]
  how = rng.random()
  if how < 0.35:  # width, height, depth, colours, ...
    sizes = (0, 1, 5, 4096, 12_000, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
    width, height = choice(rng, sizes), choice(rng, sizes)
    depth, colours = choice(rng, (1, 2, 4, 8, 16, 3)), choice(rng, range(8))
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks[0] = (b"IHDR", head)
    if rng.random() < 0.5:
      chunks = [c for c in chunks if c[0] != b"IDAT"]
      chunks[1:1] = [(b"IDAT", zlib_bomb())]
  elif how < 0.5:
    chunks[place] = (kind, any_bytes(rng, body or b"\0"))
  elif how < 0.75:
    names = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"PLTE", b"tRNS", b"acTL")
    names += (b"fcTL", b"fdAT", b"eXIf", b"gAMA", b"cHRM", b"pHYs", b"sRGB")
    bodies = (b"", b"x", rng.bytes(40), b"a\0\0" + zlib_bomb(), b"\xff" * 26)
    chunks.insert(place, (choice(rng, names), choice(rng, bodies)))
  elif how < 0.85:
    chunks.insert(place, choice(rng, chunks))
  elif how < 0.95:
    del chunks[place]
  else:
    chunks[place] = (rng.bytes(4), body)
  return write_chunks(chunks)


def mutate_segments(rng: Rng, data: bytes) -> bytes:
  """Breaks the size of a JPEG, or a length of any of its segments."""
  marks = [
    i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] >= 0xC0
  ]
  if not marks or rng.random() < 0.5:
    return any_bytes(rng, data)
  place = choice(rng, marks) + int(rng.integers(1, 12))
  raw = struct.pack(">H", number(rng) % 65_536)
  return data[:place] + raw + data[place + 2 :]


def mutate_safetensors(rng: Rng, data: bytes) -> bytes:
  """Breaks the header, its length, or the numbers."""
  length = int.from_bytes(data[:8], "little")
  header, rest = data[8 : 8 + length], data[8 + length :]
  how = rng.random()
  if how < 0.7:
    header = mutate_json(rng, header)
    if rng.random() < 0.3:
      kinds = (b"F16", b"BF16", b"F8_E4M3", b"BOOL", b"U64", b"C64", b"X9")
      header = header.replace(b"F32", choice(rng, kinds), 1)
  elif how < 0.8:
    return struct.pack("<Q", number(rng) % 2**64) + header + rest
  else:
    return any_bytes(rng, data)
  return struct.pack("<Q", len(header)) + header + rest


def mutate_msgpack(rng: Rng, data: bytes) -> bytes:
  """Breaks the bytes, or packs something else in a leaf's place."""
  if rng.random() < 0.5:
    return any_bytes(rng, data)
  tree = msgpack.unpackb(data, raw=False, strict_map_key=False)
  holder: Any = tree
  while True:
    key = choice(rng, list(holder))
    if not isinstance(holder[key], dict) or rng.random() < 0.1:
      break
    holder = holder[key]
  shape = [number(rng) % 2**63 for _ in range(int(rng.integers(0, 4)))]
  kinds = (
    "float32",
    "O",
    "V9",
    "object",
    "<U9",
    "bfloat16",
    "int64",
    text(rng),
  )
  array = (choice(rng, (shape, [0, *shape], [2], 7)), choice(rng, kinds))
  packed = msgpack.packb(
    (*array, rng.bytes(choice(rng, (0, 8, 9)))), unicode_errors="surrogatepass"
  )
  deep: Any = 1
  for _ in range(choice(rng, (5, 500))):
    deep = choice(rng, ([deep], {"a": deep}))
  chunks = {"__msgpack_chunked_array__": True}
  chunks |= {"shape": {"0": number(rng) % 2**63}, "chunks": {"0": 1}}
  holder[key] = choice(
    rng,
    (
      msgpack.ExtType(int(rng.integers(0, 5)), packed),
      msgpack.ExtType(int(rng.integers(0, 128)), rng.bytes(9)),
      *(deep, None, number(rng) % 2**63, text(rng), b"\xff", [], chunks),
    ),
  )
  if rng.random() < 0.2:
    holder[choice(rng, (text(rng), "x"))] = holder.pop(key)
  return msgpack.packb(tree, unicode_errors="surrogatepass")
