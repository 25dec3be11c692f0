"""Imports of the packages that only the `data` extra brings."""

import importlib
from typing import Any


def optional(module: str) -> Any:
  """The module, imported.

  Raises:
    ImportError: it is missing or broken; the message says what to install.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f"jaxgen.data needs {module}: pip install 'jaxgen[data]' ({error})"
    ) from error
