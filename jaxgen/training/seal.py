"""The seal of a finished directory: the SHA-256 of its files, written last.

A directory without a seal is unfinished, whatever stopped its writer; one that
differs from its seal is damaged. The file has the format of `sha256sum`, so
that `sha256sum -c SHA256SUMS` checks it by hand.
"""

import hashlib
import os
from pathlib import Path

from jaxgen.messages import reason, shown

SEAL = "SHA256SUMS"


def is_sealed(directory: Path) -> bool:
  """Whether the directory was finished."""
  return (directory / SEAL).is_file()


def write_seal(directory: Path) -> None:
  """Marks the directory as finished, in one move."""
  names = _files(directory)
  lines = [f"{_sha256(directory / name)}  {name}\n" for name in names]
  unfinished = directory / f"{SEAL}.tmp"
  unfinished.write_text("".join(lines))
  os.replace(unfinished, directory / SEAL)


def damage(directory: Path) -> str | None:
  """What is wrong with a sealed directory, in a few words; None if nothing."""
  try:
    return _damage(directory)
  except OSError as error:
    return f"it cannot be read: {reason(error)}"


def _damage(directory: Path) -> str | None:
  text = (directory / SEAL).read_text(errors="replace")
  named = set()
  for line in text.splitlines():
    digest, _, name = line.partition("  ")
    named.add(name)
    if not is_inside(name):
      return f"{SEAL} names a file outside of it, {shown(name)}"
    path = directory / name
    if not path.is_file():
      return f"{name} is missing"
    if _sha256(path) != digest:
      return f"{name} differs from its checksum"
  # A seal that lost its last lines would vouch for too little.
  if not text.endswith("\n"):
    return f"{SEAL} is cut short"
  for name in _files(directory):
    if name not in named:
      return f"{SEAL} does not name {shown(name)}"
  return None


def is_inside(name: str) -> bool:
  """Whether a relative name stays within its folder, links aside."""
  parts = Path(name).parts
  return bool(parts) and not Path(name).is_absolute() and ".." not in parts


def _files(directory: Path) -> list[str]:
  """What a seal is of: all files but itself, in a fixed order."""
  files = sorted(path for path in directory.rglob("*") if path.is_file())
  names = [path.relative_to(directory).as_posix() for path in files]
  return [name for name in names if name not in (SEAL, f"{SEAL}.tmp")]


def _sha256(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
