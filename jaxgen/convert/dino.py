"""DINO's vision transformers: released files <-> parameters of `Dino`.

The layout is that of facebookresearch/dino.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.beit import original_name, to_tensor
from jaxgen.convert.positions import side_of
from jaxgen.convert.state import State, fill
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.dino import Dino
from jaxgen.nn.vqkd import plain_vit
from jaxgen.types import PyTree

_BIAS = "attn.qkv.bias"
_PREFIXES = ("module.", "backbone.")
_POSITIONS = "pos_embed"
_PATCHES = "patch_embed.proj.weight"
_FC1 = "blocks.0.mlp.fc1.weight"


def load(path: str | Path, key: str | None = None) -> tuple[Dino, PyTree]:
  """A network and its parameters, from a released file.

  Args:
    path: such as dino_vitbase16_pretrain.pth.
    key: of a file of a whole training, "teacher" or "student".

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged or does not hold such a network.
  """
  state = without_prefixes(read_state(path, key))
  network = described(state)
  return network, from_original(state, network)


def described(state: State) -> Dino:
  """The network whose tensors a released file holds.

  Raises:
    ValueError: if it holds none; some of DINO's are convolutional.
  """
  state = without_prefixes(state)
  for name, ndim in ((_POSITIONS, 3), (_PATCHES, 4), (_FC1, 2)):
    if name not in state or state[name].ndim != ndim:
      raise ValueError(
        f"The checkpoint has no {name}: not a vision transformer of DINO."
      )
  width, _, patch_size, _ = state[_PATCHES].shape
  layers = sum(name.endswith(".norm1.weight") for name in state)
  heads = max(1, width // 64)  # in all of them
  mlp_width = len(state[_FC1])
  return Dino(plain_vit(width, layers, heads, mlp_width, patch_size))


def without_prefixes(state: State) -> dict[str, np.ndarray]:
  """The state with the names of the network alone, and without its head."""
  found: dict[str, np.ndarray] = {}
  for name, tensor in state.items():
    for prefix in _PREFIXES:
      name = name.removeprefix(prefix)
    if not name.startswith("head."):
      found[name] = tensor
  return found


def from_original(state: State, network: Dino) -> PyTree:
  """Parameters from the tensors of a released file.

  A head and the biases of keys, which change nothing, are left out.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  ours: dict[str, np.ndarray] = {}
  for name, tensor in without_prefixes(state).items():
    if name.endswith(_BIAS):
      block = name.removesuffix(_BIAS)
      q, _, v = np.split(tensor, 3)
      ours |= {f"{block}attn.q_bias": q, f"{block}attn.v_bias": v}
    else:
      ours[name] = tensor
  if _POSITIONS not in ours:
    raise ValueError(f"The checkpoint has no {_POSITIONS}: not DINO's.")
  side = side_of(ours[_POSITIONS])
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
