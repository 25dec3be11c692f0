"""What XLA says a compiled training step holds, computes and sends."""

import math
import re
from typing import Any, NamedTuple

from jaxgen.types import PyTree

_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1}
# What a program computes and holds is decided before these.
_QUICKLY = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}
_SENT = re.compile(
  r"= (\(.*?\)|\S+) (all-gather|all-reduce|reduce-scatter)(?:-start)?\("
  r".*?replica_groups=(.*)"
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class Compiled(NamedTuple):
  """Of one device.

  Attributes:
    arguments: bytes of state and batch.
    temporary: bytes that the step needs beside them.
    flops: of one step.
    gather: bytes received by all-gathers, less the device's own part.
    reduce: bytes sent by all-reduces and reduce-scatters in rings.
  """

  arguments: float
  temporary: float
  flops: float
  gather: float
  reduce: float


def compiled(step: Any, state: PyTree, batch: PyTree) -> Compiled:
  """Compiles a jitted step for arguments given by shape and place."""
  program = step.lower(state, batch).compile(_QUICKLY)
  memory = program.memory_analysis()
  gather, reduce = sent(program.as_text())
  return Compiled(
    memory.argument_size_in_bytes,
    memory.temp_size_in_bytes,
    program.cost_analysis()["flops"],
    gather,
    reduce,
  )


def sent(program: str) -> tuple[float, float]:
  """(bytes gathered, bytes reduced) by a device, from a program's text."""
  gather = reduce = 0.0
  for result, kind, groups in _SENT.findall(program):
    size = sum(
      _BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
      for dtype, shape in _ARRAY.findall(result)
    )
    n = group_size(groups)
    if kind == "all-gather":
      gather += size * (n - 1) / n
    elif kind == "all-reduce":
      reduce += 2 * size * (n - 1) / n
    else:  # the result is one of n parts
      reduce += size * (n - 1)
  return gather, reduce


def group_size(groups: str) -> int:
  """How many devices take part.

  Two in "{{0,1},{2,3}}", in "[2,2]<=[4]", and in "mesh['a'=2,'b'=4] {'a'}".
  """
  if groups.startswith("mesh"):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups))
    named = re.search(r"\{([^{}]*)\}", groups)
    names = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[1] if named else "")
    return math.prod(int(part or sizes[name]) for name, part in names)
  if groups.startswith("{"):
    return groups.lstrip("{").split("}")[0].count(",") + 1
  return int(groups[1:].split("]")[0].split(",")[1])
