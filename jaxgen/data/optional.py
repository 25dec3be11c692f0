"""What may be missing: packages of an extra, files that are published."""

import importlib
from pathlib import Path
from typing import Any


def optional(module: str, extra: str = "data") -> Any:
  """The module, imported.

  Args:
    module: its name.
    extra: the extra of jaxgen that installs it.

  Raises:
    ImportError: it is missing or broken; the message says what to install.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f"jaxgen.data needs {module}: pip install 'jaxgen[{extra}]' ({error})"
    ) from error


def published(path: str | Path, source: str) -> Path:
  """The path of a file; if there is none, the error says where to get it.

  Raises:
    FileNotFoundError: there is none.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"There is no file {path}: {path.name} is published at {source}."
    )
  return path
