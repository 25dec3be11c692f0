"""What error messages show of files: short, and on one line, whatever it is."""

import reprlib
from typing import Any

_LENGTH = 200


def shown(value: Any) -> str:
  """A value from a file as an error message shows it.

  Like `repr`, but long or deeply nested values are cut: a file of some bytes
  can describe a value of 2^60 parts.
  """
  return _cut(_REPR.repr(value))


def reason(error: BaseException) -> str:
  """The message of an error, on one line, cut where it is long.

  A `KeyError` shows its key, which may be such a value as `shown` cuts.
  """
  if isinstance(error, KeyError) and error.args:
    return shown(error.args[0])
  text = " ".join(str(error).split()) or type(error).__name__
  return _cut("".join(c if c.isprintable() else "?" for c in text))


class _Short(reprlib.Repr):
  """Objects by their type alone."""

  def repr_instance(self, x: Any, level: int) -> str:
    """`repr` of numbers and None; of bytes only the first."""
    if x is None or isinstance(x, bool | float | complex):
      return repr(x)
    if isinstance(x, bytes):
      return repr(x[:20]) + ("..." if len(x) > 20 else "")
    return f"<{type(x).__name__}>"


_REPR = _Short()
_REPR.maxlevel = 3
_REPR.maxstring = 100
_REPR.maxother = 100


def _cut(text: str) -> str:
  return text if len(text) <= _LENGTH else text[:_LENGTH] + "..."
