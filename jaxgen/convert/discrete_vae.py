"""BEiT's own discrete autoencoder: its files -> parameters.

The released code reads `pytorch_model.bin`, whose entry "weights" is the state
dictionary of `DiscreteVAE`; the release has no such file.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.state import ParamPath, State, fill, to_torch
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.discrete_vae import Decoder, Encoder
from jaxgen.types import PyTree

_FIRST = "encoder.0.0.weight"
_CODEBOOK = "codebook.weight"


def load(path: str | Path) -> tuple[Encoder, Decoder, PyTree]:
  """Both networks and their parameters, from a file.

  Args:
    path: of a state dictionary, or of a file with an entry that is one.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or does not hold this autoencoder.
  """
  return from_original(read_state(path))


def from_original(state: State) -> tuple[Encoder, Decoder, PyTree]:
  """Both networks and {"encoder": ..., "decoder": ...}, their parameters.

  The sizes are read off the tensors.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  axes = [np.ndim(state.get(name, ())) for name in (_FIRST, _CODEBOOK)]
  if axes != [4, 2]:
    raise ValueError(
      f"The checkpoint has no {_FIRST} and {_CODEBOOK}: not a DiscreteVAE."
    )
  width, channels = state[_FIRST].shape[:2]
  num_tokens, code_width = state[_CODEBOOK].shape
  found = (re.fullmatch(r"encoder\.\d+\.0\.weight", name) for name in state)
  layers = sum(match is not None for match in found)
  encoder = Encoder(width, layers, num_tokens)
  decoder = Decoder(width, layers, code_width, channels)
  # Dense layers would be turned; a codebook has its entries in rows in both.
  turned = {**state, _CODEBOOK: state[_CODEBOOK].T}
  template = {
    "encoder": _shapes(encoder, (1, 2**layers, 2**layers, channels)),
    "decoder": _shapes(decoder, (1, 1, 1, num_tokens)),
  }
  return encoder, decoder, fill(template, lambda p: _name(p, layers), turned)


def to_original(params: PyTree) -> dict[str, np.ndarray]:
  """The tensors of the original; inverse of `from_original`."""
  flat = flatten_dict(params)
  layers = len([path for path in flat if path[1].startswith("down_")]) // 2
  state = {_name(path, layers): to_torch(leaf) for path, leaf in flat.items()}
  return {**state, _CODEBOOK: state[_CODEBOOK].T}


def _name(path: ParamPath, layers: int) -> str:
  """(encoder, block_0, conv_1, kernel) -> encoder.1.net.2.weight"""
  part, module, *inner = path
  if module == "codebook":
    return _CODEBOOK
  leaf = {"kernel": "weight"}.get(inner[-1], inner[-1])
  if module == "output":
    return f"{part}.{2 * layers}.{leaf}"
  kind, number = module.split("_")
  if kind in ("down", "up"):
    return f"{part}.{2 * int(number)}.0.{leaf}"
  place = 2 * int(inner[0].removeprefix("conv_"))
  return f"{part}.{2 * int(number) + 1}.net.{place}.{leaf}"


def _shapes(network: Encoder | Decoder, shape: tuple[int, ...]) -> PyTree:
  x = jnp.zeros(shape)
  return jax.eval_shape(network.init, jax.random.key(0), x)["params"]
