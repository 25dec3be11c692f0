"""Imports of the packages that only an extra brings."""

import importlib
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
