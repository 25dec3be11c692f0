"""Pickle streams read as data: nothing in them is imported or called.

A pickle is a small program that may name any Python object and call it. Here
its instructions run on a stack of plain values. A name stays a name, and a
call is carried out only if the name is among the constructors that the caller
passes; otherwise it is recorded as an `Opaque`.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

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
  "FROZENSET": frozenset,
  "DICT": lambda values: dict(_pairs(values)),
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()

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
  file: BinaryIO,
  constructors: Constructors,
  persistent: Callable[[Any], Any],
) -> Any:
  """The object of a pickle stream, read up to the stream's end.

  Args:
    file: at the start of a pickle of any protocol, buffers out of band aside.
    constructors: "module.name" -> the function to use in its place; Python 2's
      `__builtin__` is called builtins.
    persistent: persistent id -> the object it stands for.

  Raises:
    ValueError: if the stream is damaged, or names a function that runs
      programs or code.
    IndexError, KeyError, TypeError: likewise damaged.
  """
  machine = _Machine(constructors, persistent)
  for opcode, argument, _ in pickletools.genops(file):
    if opcode.name == "STOP":
      return machine.stack.pop()
    machine.run(opcode.name, argument)
  raise ValueError("the pickle has no end")


class _Machine:
  """The stack and memo of a pickle."""

  def __init__(
    self, constructors: Constructors, persistent: Callable[[Any], Any]
  ) -> None:
    self.stack: list[Any] = []
    self._memo: dict[int, Any] = {}
    self._constructors = constructors
    self._persistent = persistent

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
      stack.append(self._call(function, (*args, keywords)))
    elif opcode == "BUILD":
      state = stack.pop()
      # Other values have no state, or none that matters: PyTorch gives the
      # OrderedDict of a state dict the versions of its modules.
      if isinstance(stack[-1], Opaque):
        stack[-1].state = state
    elif opcode == "BINPERSID":
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
    if function.args is None and function.name in self._constructors:
      return self._constructors[function.name](*args)
    return Opaque(function.name, args)


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
      f"it names {module}.{name}, which is no data but may be an attack"
    )
  return Opaque(f"{module}.{name}")


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
  return list(zip(values[::2], values[1::2], strict=True))


def _append(target: Any, values: list[Any]) -> None:
  if isinstance(target, Opaque):
    target.items.extend(values)
  elif isinstance(target, set):
    target.update(values)
  elif isinstance(target, list):
    target.extend(values)
  else:
    raise ValueError(f"the pickle appends to a {type(target).__name__}")


def _set_items(target: Any, pairs: list[tuple[Any, Any]]) -> None:
  if isinstance(target, Opaque):
    target.items.extend(pairs)
  elif isinstance(target, dict):
    target.update(pairs)
  else:
    raise ValueError(f"the pickle sets an item of a {type(target).__name__}")
