"""Pickle streams read as data: nothing in them is imported or called.

A pickle is a small program that may name any Python object and call it. Here
its instructions run on a stack of plain values. A name stays a name, and a
call is carried out only if the name is among the constructors that the caller
passes; otherwise it is recorded as an `Opaque`.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from jaxgen.messages import shown

# Named by attacks, never by data. Nothing would run without these lists either:
# they turn a file that carries an attack into an error.
_DANGEROUS_MODULES = {
  *("os", "nt", "posix", "sys", "subprocess", "shutil", "pty", "commands"),
  *("runpy", "importlib", "imp", "pkgutil", "code", "codeop", "marshal"),
  *("pickle", "bdb", "pdb", "timeit", "ctypes", "multiprocessing", "pip"),
  *("socket", "webbrowser"),
}
_DANGEROUS_BUILTINS = {
  *("eval", "exec", "execfile", "compile", "apply", "breakpoint", "__import__"),
  *("getattr", "setattr", "delattr", "globals", "open", "file", "input"),
}

_PUSHED_ARGUMENTS = {
  *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
  *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
  *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
  *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_PUSHED_CONSTANTS: dict[str, Callable[[], Any]] = {
  "NONE": lambda: None,
  "NEWTRUE": lambda: True,
  "NEWFALSE": lambda: False,
  "EMPTY_LIST": list,
  "EMPTY_TUPLE": tuple,
  "EMPTY_DICT": dict,
  "EMPTY_SET": set,
}
_COLLECTED: dict[str, Callable[[list[Any]], Any]] = {
  "TUPLE": tuple,
  "LIST": list,
  "FROZENSET": lambda values: frozenset(keys(values)),
  "DICT": lambda values: dict(_pairs(values)),
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()
# Parts of a key: hashing one is not to take long, or deep recursion.
_KEY_PARTS = 1000

Constructors = Mapping[str, Callable[..., Any]]


@dataclasses.dataclass(eq=False)
class Opaque:
  """A class, function or object of a file, known only by its name.

  Attributes:
    name: its module and name, "pytorch_lightning.Trainer".
    args: what it was called with; None if it was only named.
    state: what its instance was filled with; for most objects, the dictionary
      of their attributes.
    items: values appended to it, or pairs set in it.
  """

  name: str
  args: tuple[Any, ...] | None = None
  state: Any = None
  items: list[Any] = dataclasses.field(default_factory=list)


def load(
  file: BytesIO,
  constructors: Constructors,
  persistent: Callable[[Any], Any],
) -> Any:
  """The object of a pickle stream, read up to the stream's end.

  Args:
    file: at the start of a pickle of any protocol, buffers out of band aside;
      it stands behind its end afterwards.
    constructors: "module.name" -> the function to use in its place; Python 2's
      `__builtin__` is called builtins.
    persistent: persistent id -> the object it stands for.

  Raises:
    ValueError: if the stream is damaged, names a function that runs programs
      or code, or grows far beyond its size.
    IndexError, KeyError, TypeError: likewise damaged.
  """
  machine = _Machine(constructors, persistent, file.getbuffer().nbytes)
  for opcode, argument, _ in pickletools.genops(file):
    if opcode.name == "STOP":
      return machine.stack.pop()
    machine.run(opcode.name, argument)
  raise ValueError("the pickle has no end")


def keys(values: Any) -> list[Any]:
  """Values that shall be keys of a dictionary or members of a set.

  Raises:
    ValueError: if one has very many parts: a file of some bytes can describe a
      tuple of 2^60, whose hash no computer will see.
  """
  values = list(values)
  for value in values:
    if isinstance(value, tuple | frozenset):
      _check_key(value)
  return values


def _check_key(value: Any) -> None:
  rest, parts = [value], 0
  while rest:
    part = rest.pop()
    parts += 1
    if isinstance(part, tuple | frozenset):
      parts += len(part)
      if parts <= _KEY_PARTS:
        rest.extend(part)
    if parts > _KEY_PARTS:
      raise ValueError(f"the pickle has a key of over {_KEY_PARTS} parts")


class _Machine:
  """The stack and memo of a pickle."""

  def __init__(
    self,
    constructors: Constructors,
    persistent: Callable[[Any], Any],
    size: int,
  ) -> None:
    self.stack: list[Any] = []
    self._memo: dict[int, Any] = {}
    self._constructors = constructors
    self._persistent = persistent
    # Values that calls may copy. Of an honest pickle each is written out once.
    self._to_copy = size

  def run(self, opcode: str, argument: Any) -> None:
    """Carries out one instruction."""
    stack = self.stack
    if opcode in _PUSHED_ARGUMENTS:
      stack.append(argument)
    elif opcode in _PUSHED_CONSTANTS:
      stack.append(_PUSHED_CONSTANTS[opcode]())
    elif opcode in _COLLECTED:
      stack.append(_COLLECTED[opcode](self._pop_to_mark()))
    elif opcode in _SHORT_TUPLES:
      values = [stack.pop() for _ in range(_SHORT_TUPLES[opcode])]
      stack.append(tuple(values[::-1]))
    elif opcode in ("BINGET", "LONG_BINGET", "GET"):
      stack.append(self._memo[argument])
    elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
      self._memo[argument] = stack[-1]
    elif opcode == "MEMOIZE":
      self._memo[len(self._memo)] = stack[-1]
    elif opcode == "MARK":
      stack.append(_MARK)
    elif opcode == "POP":
      stack.pop()
    elif opcode == "POP_MARK":
      self._pop_to_mark()
    elif opcode == "DUP":
      stack.append(stack[-1])
    elif opcode not in ("PROTO", "FRAME"):
      self._run_on_objects(opcode, argument)

  def _run_on_objects(self, opcode: str, argument: Any) -> None:
    """Carries out an instruction that names, calls or fills an object."""
    stack = self.stack
    if opcode == "APPEND":
      value = stack.pop()
      _append(stack[-1], [value])
    elif opcode in ("APPENDS", "ADDITEMS"):
      values = self._pop_to_mark()
      _append(stack[-1], values)
    elif opcode == "SETITEM":
      value, key = stack.pop(), stack.pop()
      _set_items(stack[-1], [(key, value)])
    elif opcode == "SETITEMS":
      pairs = _pairs(self._pop_to_mark())
      _set_items(stack[-1], pairs)
    elif opcode == "GLOBAL":
      stack.append(_named(*argument.split(" ", 1)))
    elif opcode == "STACK_GLOBAL":
      name, module = stack.pop(), stack.pop()
      stack.append(_named(module, name))
    elif opcode in ("REDUCE", "NEWOBJ"):
      args, function = stack.pop(), stack.pop()
      stack.append(self._call(function, args))
    elif opcode == "NEWOBJ_EX":
      keywords, args, function = stack.pop(), stack.pop(), stack.pop()
      self._pay(args)
      stack.append(self._call(function, (*args, keywords)))
    elif opcode == "BUILD":
      state = stack.pop()
      # Other values have no state, or none that matters: PyTorch gives the
      # OrderedDict of a state dict the versions of its modules.
      if isinstance(stack[-1], Opaque):
        stack[-1].state = state
    elif opcode == "BINPERSID":
      self._pay(stack[-1])
      stack.append(self._persistent(stack.pop()))
    else:
      raise ValueError(f"the pickle has the instruction {opcode}")

  def _pop_to_mark(self) -> list[Any]:
    values = []
    while (value := self.stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]

  def _call(self, function: Any, args: Any) -> Any:
    if not isinstance(function, Opaque) or not isinstance(args, tuple):
      raise ValueError(f"the pickle calls a {type(function).__name__}")
    self._pay(args)
    for argument in args:
      self._pay(argument)
    if function.args is None and function.name in self._constructors:
      return self._constructors[function.name](*args)
    return Opaque(function.name, args)

  def _pay(self, values: Any) -> None:
    """Counts what may be copied, over and over if it is long and shared."""
    if isinstance(values, tuple | list | dict | set | frozenset | str | bytes):
      self._to_copy -= len(values)
    if self._to_copy < 0:
      raise ValueError("the pickle copies more than it holds")


def _named(module: Any, name: Any) -> Opaque:
  if not isinstance(module, str) or not isinstance(name, str):
    raise ValueError("the pickle names an object by something else than text")
  module = "builtins" if module == "__builtin__" else module
  dangerous = (
    name in _DANGEROUS_BUILTINS
    if module == "builtins"
    else module in _DANGEROUS_MODULES
  )
  if dangerous:
    raise ValueError(
      f"it names {shown(f'{module}.{name}')[1:-1]}, which is no data but may "
      "be an attack"
    )
  return Opaque(f"{module}.{name}")


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
  return _checked(list(zip(values[::2], values[1::2], strict=True)))


def _checked(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
  keys(key for key, _ in pairs)
  return pairs


def _append(target: Any, values: list[Any]) -> None:
  if isinstance(target, Opaque):
    target.items.extend(values)
  elif isinstance(target, set):
    target.update(keys(values))
  elif isinstance(target, list):
    target.extend(values)
  else:
    raise ValueError(f"the pickle appends to a {type(target).__name__}")


def _set_items(target: Any, pairs: list[tuple[Any, Any]]) -> None:
  if isinstance(target, Opaque):
    target.items.extend(pairs)
  elif isinstance(target, dict):
    target.update(_checked(pairs))
  else:
    raise ValueError(f"the pickle sets an item of a {type(target).__name__}")
