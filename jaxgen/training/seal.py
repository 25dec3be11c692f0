"""The seal of a finished directory: the SHA-256 of its files, written last.

A directory without a seal is unfinished, whatever stopped its writer; one that
differs from its seal is damaged. The file has the format of `sha256sum`, so
that `sha256sum -c SHA256SUMS` checks it by hand.
"""

import hashlib
import os
from pathlib import Path

from jaxgen.messages import shown

SEAL = "SHA256SUMS"


def is_sealed(directory: Path) -> bool:
  """Whether the directory was finished."""
  return (directory / SEAL).is_file()


def write_seal(directory: Path) -> None:
  """Marks the directory as finished, in one move."""
  files = sorted(path for path in directory.rglob("*") if path.is_file())
  lines = [
    f"{_sha256(path)}  {path.relative_to(directory).as_posix()}\n"
    for path in files
  ]
  unfinished = directory / f"{SEAL}.tmp"
  unfinished.write_text("".join(lines))
  os.replace(unfinished, directory / SEAL)


def damage(directory: Path) -> str | None:
  """What is wrong with a sealed directory, in a few words; None if nothing."""
  lines = (directory / SEAL).read_text(errors="replace").splitlines()
  for line in lines:
    digest, _, name = line.partition("  ")
    if not is_inside(name):
      return f"{SEAL} names a file outside of it, {shown(name)}"
    path = directory / name
    if not path.is_file():
      return f"{name} is missing"
    if _sha256(path) != digest:
      return f"{name} differs from its checksum"
  return None if lines else f"{SEAL} is empty"


def is_inside(name: str) -> bool:
  """Whether a relative name stays within its folder, links aside."""
  parts = Path(name).parts
  return bool(parts) and not Path(name).is_absolute() and ".." not in parts


def _sha256(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
