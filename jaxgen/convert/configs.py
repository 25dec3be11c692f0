"""The config.json files of diffusers and transformers."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxgen.json_files import read_entries
from jaxgen.messages import shown


def read_config(path: str | Path) -> dict[str, Any]:
  """The entries of a JSON file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged.
  """
  return read_entries(path)


def write_config(path: str | Path, config: Mapping[str, Any]) -> None:
  """Writes a JSON file."""
  text = json.dumps(dict(config), indent=2) + "\n"
  Path(path).write_text(text, encoding="utf-8")


def check_count(path: str | Path, name: str, value: Any) -> None:
  """Raises ValueError unless a value is a count that a network can have.

  A million layers would take days to build.
  """
  most = 1000 if "layers" in name else 1_000_000
  if type(value) is not int or not 1 <= value <= most:
    raise ValueError(
      f"{path} has {name} {shown(value)}, wanted is a count up to {most:,}."
    )


def check_levels(
  path: str | Path, config: Mapping[str, Any], widths: str, *blocks: str
) -> None:
  """Raises ValueError unless widths and blocks are lists, one for each level.

  Args:
    path: of the file, for the message.
    config: its entries.
    widths: the entry with the widths.
    blocks: entries with names.
  """
  found = [config[name] for name in (widths, *blocks)]
  if not all(isinstance(x, list) and len(x) == len(found[0]) for x in found):
    raise ValueError(f"{path} has no list of levels: {shown(found)}.")
  if not 1 <= len(found[0]) <= 16:
    raise ValueError(f"{path} has {len(found[0])} levels.")
  for width in found[0]:
    check_count(path, widths, width)
  if not all(isinstance(name, str) for names in found[1:] for name in names):
    raise ValueError(f"{path} has blocks without a name: {shown(found[1:])}.")


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
        f"{path} has {shown(name)[1:-1]} {shown(value)}, but "
        f"{wanted.get(name)!r} is wanted."
      )
