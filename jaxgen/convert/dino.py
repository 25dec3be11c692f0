"""DINO's vision transformers: released files <-> parameters of `Dino`.

The layout is that of facebookresearch/dino.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.beit import original_name, to_tensor
from jaxgen.convert.state import State, fill
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.dino import Dino
from jaxgen.types import PyTree

_BIAS = "attn.qkv.bias"
_PREFIXES = ("module.", "backbone.")
_POSITIONS = "pos_embed"


def load(path: str | Path, network: Dino, key: str | None = None) -> PyTree:
  """Parameters from a released file.

  Args:
    path: such as dino_vitbase16_pretrain.pth.
    network: what it holds, one of `jaxgen.nn.dino.DINOS`.
    key: of a file of a whole training, "teacher" or "student".

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged or does not hold this network.
  """
  return from_original(read_state(path, key), network)


def from_original(state: State, network: Dino) -> PyTree:
  """Parameters from the tensors of a released file.

  A head and the biases of keys, which change nothing, are left out.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  ours: dict[str, np.ndarray] = {}
  for name, tensor in state.items():
    for prefix in _PREFIXES:
      name = name.removeprefix(prefix)
    if name.endswith(_BIAS):
      block = name.removesuffix(_BIAS)
      q, _, v = np.split(tensor, 3)
      ours |= {f"{block}attn.q_bias": q, f"{block}attn.v_bias": v}
    elif not name.startswith("head."):
      ours[name] = tensor
  if _POSITIONS not in ours:
    raise ValueError(f"The checkpoint has no {_POSITIONS}: not DINO's.")
  side = round((ours[_POSITIONS].shape[1] - 1) ** 0.5)
  return fill(_template(network, side), original_name, ours)


def to_original(params: PyTree) -> dict[str, np.ndarray]:
  """The tensors of a released file, the biases of keys being 0."""
  flat = flatten_dict(params)
  ours = {original_name(path): to_tensor(path, x) for path, x in flat.items()}
  state: dict[str, np.ndarray] = {}
  for name, tensor in ours.items():
    if name.endswith("attn.q_bias"):
      block = name.removesuffix("attn.q_bias")
      v = ours[f"{block}attn.v_bias"]
      whole = np.concatenate([tensor, np.zeros_like(tensor), v])
      state[block + _BIAS] = whole
    elif not name.endswith("attn.v_bias"):
      state[name] = tensor
  return state


def _template(network: Dino, side: int) -> PyTree:
  """The shapes of the parameters, for images of side x side patches."""
  size = side * network.backbone.patch_size
  x = jnp.zeros((1, size, size, 3))
  return jax.eval_shape(network.init, jax.random.key(0), x)["params"]
