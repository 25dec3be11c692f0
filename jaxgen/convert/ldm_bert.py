"""Latent diffusion's text encoder: checkpoint <-> parameters of `LdmBert`.

The layout is that of CompVis/latent-diffusion's `BERTEmbedder`, whose released
files contain it under "cond_stage_model.transformer.".
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.state import ParamPath, State, fill, to_tensor
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.ldm_bert import LdmBert
from jaxgen.types import PyTree

ORIGINAL = "cond_stage_model.transformer."

_MODULES = {
  "token_embedding": "token_emb",
  "position_embedding": "pos_emb.emb.weight",
  "norm_out": "norm",
}
# The original counts attention and dense layers alike: block i is its layers
# 2 i and 2 i + 1, each a normalisation, 0, and the rest, 1.
_LAYERS = {
  "norm1": (0, "0"),
  "q": (0, "1.to_q"),
  "k": (0, "1.to_k"),
  "v": (0, "1.to_v"),
  "proj_out": (0, "1.to_out"),
  "norm2": (1, "0"),
  "fc1": (1, "1.net.0.0"),
  "fc2": (1, "1.net.2"),
}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# Logits of the next token, which nothing trained and nothing uses.
_UNUSED = ("to_logits.weight", "to_logits.bias")


def load(path: str | Path, network: LdmBert) -> PyTree:
  """Parameters of `network` from a whole released file or of the encoder alone.

  Of a whole latent diffusion model the tensors of the other networks are left
  to their own readers.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, or does not hold this network.
  """
  state = read_state(path)
  if any(name.startswith(ORIGINAL) for name in state):
    state = {k: v for k, v in state.items() if k.startswith(ORIGINAL)}
  return from_original(state, network)


def from_original(state: State, network: LdmBert) -> PyTree:
  """Parameters of `network` from the tensors of the PyTorch network.

  Args:
    state: tensor name -> array, every one of which must be used, but for the
      head `to_logits`, which the network does not use; names with or without
      "cond_stage_model.transformer.".
    network: the network.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  prefix = ORIGINAL if f"{ORIGINAL}token_emb.weight" in state else ""
  unused = {prefix + name for name in _UNUSED}
  state = {name: x for name, x in state.items() if name not in unused}
  return fill(_template(network), lambda path: prefix + _name(path), state)


def to_original(params: PyTree, prefix: str = "") -> dict[str, np.ndarray]:
  """The tensors of the PyTorch network; inverse of `from_original`.

  There is no `to_logits` among them, which the original's loading, not strict,
  does not miss.

  Args:
    params: of an `LdmBert`.
    prefix: before every name; `ORIGINAL` is that of whole models' files.
  """
  return {
    prefix + _name(path): to_tensor(path, leaf)
    for path, leaf in flatten_dict(params).items()
  }


def _name(path: ParamPath) -> str:
  module, *rest = path
  if not rest:
    return _MODULES[module]
  *layers, leaf = rest
  leaf = _LEAVES.get(leaf, leaf)
  if not layers:
    return f"{_MODULES[module]}.{leaf}"
  second, name = _LAYERS[layers[0]]
  number = 2 * int(module.removeprefix("block_")) + second
  return f"attn_layers.layers.{number}.{name}.{leaf}"


def _template(network: LdmBert) -> PyTree:
  """The shapes of the parameters."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  return jax.eval_shape(network.init, jax.random.key(0), tokens)["params"]
