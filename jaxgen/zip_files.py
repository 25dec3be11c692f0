"""Zip archives whose directory may lie about sizes."""

import io
import os


class BoundedReader(io.BufferedReader):
  """A file of which no more can be asked for than it has.

  Python makes room for all that is asked for before it reads, and `zipfile`
  asks for as much as 22 bytes at the end of an archive say: up to 4 GB.
  """

  def read(self, size: int | None = -1) -> bytes:
    """At most the rest of the file."""
    if size is not None and size > 0:
      rest = os.fstat(self.fileno()).st_size - self.tell()
      size = min(size, max(0, rest))
    return super().read(size)


def open_bounded(path: str | os.PathLike[str]) -> BoundedReader:
  """Opens a file for reading bytes.

  Raises:
    OSError: it cannot be opened.
  """
  return BoundedReader(io.FileIO(path))
