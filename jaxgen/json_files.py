"""JSON, which may be damaged or made to do harm."""

import json
from pathlib import Path
from typing import Any

from jaxgen.messages import reason


def read_json(path: str | Path) -> Any:
  """The content of a JSON file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or nested too deeply.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no file {path}.")
  return parse_json(path.read_bytes(), path)


def read_entries(path: str | Path) -> dict[str, Any]:
  """The entries of a JSON file that holds an object.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, nested too deeply, or holds something else.
  """
  entries = read_json(path)
  if not isinstance(entries, dict):
    raise ValueError(f"{path} holds a {type(entries).__name__}, not entries.")
  return entries


def parse_json(text: str | bytes, source: str | Path) -> Any:
  """The value that a text in JSON holds.

  Args:
    text: bytes are taken for UTF-8.
    source: where it is from, for the message.

  Raises:
    ValueError: if it is damaged, or nested too deeply.
  """
  try:
    return json.loads(text if isinstance(text, str) else text.decode())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{source} is not JSON: {reason(error)}.") from error
