"""DALL-E's discrete autoencoder: its released files -> parameters.

`encoder.pkl` and `decoder.pkl` hold whole modules of PyTorch. They are read as
data: of every module its parameters and its parts, and no code of theirs runs.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.pickles import Opaque
from jaxgen.convert.state import ParamPath, State, fill, to_torch
from jaxgen.convert.torch_files import read_torch
from jaxgen.messages import shown
from jaxgen.nn.dvae import Decoder, Encoder
from jaxgen.types import PyTree

Network = Encoder | Decoder
_INPUT = "blocks.input.w"


def load(path: str | Path, network: Network) -> PyTree:
  """Parameters of a released file, or of a saved state dictionary.

  Args:
    path: encoder.pkl or decoder.pkl, or a file of their state dictionaries.
    network: what it holds; `Encoder()` and `Decoder()` are the released ones.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, names a function that runs programs or code,
      or does not hold this network.
  """
  content = read_torch(path)
  state = content if isinstance(content, dict) else module_state(content)
  if not all(
    isinstance(name, str) and isinstance(tensor, np.ndarray)
    for name, tensor in state.items()
  ):
    raise ValueError(f"{path} holds neither a module nor its tensors.")
  return from_original(state, network)


def module_state(module: Any) -> dict[str, np.ndarray]:
  """The state dictionary of a module of PyTorch that was saved whole.

  Args:
    module: as `read_torch` gives it.

  Raises:
    ValueError: if it is no module, or has a part twice, maybe within itself.
  """
  state: dict[str, np.ndarray] = {}
  seen: set[int] = set()
  rest: list[tuple[str, Any]] = [("", module)]
  while rest:
    prefix, part = rest.pop()
    if id(part) in seen:
      raise ValueError(f"The module's part {shown(prefix)} is there twice.")
    seen.add(id(part))
    leaves, parts = _attributes(part)
    state |= {f"{prefix}{name}": tensor for name, tensor in leaves.items()}
    rest += [(f"{prefix}{name}.", inner) for name, inner in parts.items()]
  return state


def _attributes(module: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
  """A module's own tensors, and its parts."""
  attributes = module.state if isinstance(module, Opaque) else None
  found = attributes if isinstance(attributes, dict) else {}
  kinds = [found.get(k, {}) for k in ("_parameters", "_buffers", "_modules")]
  if "_modules" not in found or not all(isinstance(k, dict) for k in kinds):
    raise ValueError(
      f"A module of PyTorch is wanted, got {_described(module)}."
    )
  leaves = {**kinds[0], **kinds[1]}
  return {k: x for k, x in leaves.items() if x is not None}, kinds[2]


def from_original(state: State, network: Network) -> PyTree:
  """Parameters from the tensors of the released modules.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  if _INPUT not in state or np.ndim(state[_INPUT]) != 4:
    raise ValueError(f"The checkpoint has no {_INPUT}: not DALL-E's dVAE.")
  channels = state[_INPUT].shape[1]
  return fill(_template(network, channels), _name, state)


def to_original(params: PyTree) -> dict[str, np.ndarray]:
  """The tensors of the released modules; inverse of `from_original`."""
  return {
    _name(path): to_torch(leaf) for path, leaf in flatten_dict(params).items()
  }


def _name(path: ParamPath) -> str:
  """(group_1_block_2, conv_3, w) -> blocks.group_1.block_2.res_path.conv_3.w"""
  module, *layer, leaf = path
  if module == "output":
    return f"blocks.output.conv.{leaf}"
  if module == "input":
    return f"blocks.input.{leaf}"
  group, block = module[: len("group_1")], module[len("group_1_") :]
  inner = layer[0] if layer[0] == "id_path" else f"res_path.{layer[0]}"
  return f"blocks.{group}.{block}.{inner}.{leaf}"


def _template(network: Network, channels: int) -> PyTree:
  """The shapes of the parameters."""
  x = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
  return jax.eval_shape(network.init, jax.random.key(0), x)["params"]


def _described(content: Any) -> str:
  name = content.name if isinstance(content, Opaque) else type(content).__name__
  return f"an object {shown(name)[1:-1]}"
