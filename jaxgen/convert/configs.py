"""The config.json files of diffusers and transformers."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def read_config(path: str | Path) -> dict[str, Any]:
  """The entries of a JSON file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no file {path}.")
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{path} is not JSON: {error}.") from error
  if not isinstance(config, dict):
    raise ValueError(f"{path} holds a {type(config).__name__}, not entries.")
  return config


def write_config(path: str | Path, config: Mapping[str, Any]) -> None:
  """Writes a JSON file."""
  text = json.dumps(dict(config), indent=2) + "\n"
  Path(path).write_text(text, encoding="utf-8")


def check_config(
  path: str | Path,
  config: Mapping[str, Any],
  explicit: Mapping[str, Any],
  defaults: Mapping[str, Any],
  ignored: Collection[str] = (),
) -> None:
  """Raises ValueError where a config describes something else than is wanted.

  Args:
    path: of the file, for the message.
    config: its entries. Those that begin with "_" do not count.
    explicit: what it has to say.
    defaults: what it may say or not; any other entry has to be None.
    ignored: entries of any value.
  """
  absent = [name for name in explicit if name not in config]
  if absent:
    raise ValueError(f"{path} lacks {', '.join(absent)}.")
  wanted = {**defaults, **explicit}
  for name, value in config.items():
    if name.startswith("_") or name in ignored:
      continue
    if value != wanted.get(name):
      raise ValueError(
        f"{path} has {name} {value!r}, but {wanted.get(name)!r} is wanted."
      )
