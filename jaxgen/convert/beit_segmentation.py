"""BEiT with UPerNet: checkpoint <-> variables of `Segmenter`.

The layouts are that of the released files, which mmsegmentation wrote, and that
of transformers' `BeitForSemanticSegmentation`. (That class itself feeds the
head with the outputs of earlier blocks than the original; its weights are the
original's.)
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert import beit
from jaxgen.convert.state import ParamPath, State, fill, to_tensor
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.segmentation import Segmenter
from jaxgen.types import PyTree

_PYRAMID = {
  "fpn1_up1": "fpn1.0",
  "fpn1_bn": "fpn1.1",
  "fpn1_up2": "fpn1.3",
  "fpn2_up": "fpn2.0",
}
_LAYERS = (
  (r"pool_(\d)", r"psp_modules.\1.1"),
  (r"lateral_(\d)", r"lateral_convs.\1"),
  (r"fpn_(\d)", r"fpn_convs.\1"),
  (r"conv", "convs.0"),
  (r"classifier", "conv_seg"),
)
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}
_COUNTER = "num_batches_tracked"


def load(path: str | Path, network: Segmenter, image_size: int = 512) -> PyTree:
  """Variables, "params" and "batch_stats", from a file of either layout.

  Args:
    path: a .pth file, or a safetensors file of the hub.
    network: what it holds.
    image_size: of the crops that it was trained on.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged or does not hold this network.
  """
  state = read_state(path)
  if any(name.startswith("beit.") for name in state):
    return from_transformers(state, network, image_size)
  return from_original(state, network, image_size)


def from_original(
  state: State, network: Segmenter, image_size: int = 512
) -> PyTree:
  """Variables from the tensors of a released file.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape. Counters
      of batches and indices of positions are not read.
  """
  state = {k: v for k, v in state.items() if not k.endswith(_COUNTER)}
  x = jnp.zeros((1, image_size, image_size, 3))
  template = jax.eval_shape(network.init, jax.random.key(0), x)
  return fill(template, _name, beit.without_indices(state))


def to_original(variables: PyTree) -> dict[str, np.ndarray]:
  """The tensors of a released file; inverse of `from_original`."""
  state = {}
  for path, leaf in flatten_dict(variables).items():
    ndim = 4 if path[-2:] == ("classifier", "kernel") else None
    state[_name(path)] = to_tensor(path, leaf, ndim)
  return state


def from_transformers(
  state: State, network: Segmenter, image_size: int = 512
) -> PyTree:
  """Variables from the tensors of `BeitForSemanticSegmentation`.

  Raises:
    ValueError: as `from_original`.
  """
  heads = ("decode_head.", "auxiliary_head.")
  trunk = {k: v for k, v in state.items() if not k.startswith(heads)}
  original = {
    f"backbone.{name}": tensor
    for name, tensor in beit.original_layout(trunk).items()
  }
  for name in state.keys() - trunk.keys():
    renamed = name.replace("head.classifier.", "head.conv_seg.")
    original[renamed] = state[name]
  return from_original(original, network, image_size)


def to_transformers(variables: PyTree) -> dict[str, np.ndarray]:
  """The tensors of transformers' file; inverse of `from_transformers`."""
  state = to_original(variables)
  trunk = {
    name.removeprefix("backbone."): tensor
    for name, tensor in state.items()
    if name.startswith("backbone.")
  }
  heads = {
    name.replace("head.conv_seg.", "head.classifier."): tensor
    for name, tensor in state.items()
    if not name.startswith("backbone.")
  }
  return beit.transformers_layout(trunk) | heads


def _name(path: ParamPath) -> str:
  """("params", "decode_head", "pool_0", "bn", "scale") -> its tensor's name."""
  _, part, *rest = path
  if part == "backbone":
    return f"backbone.{beit.original_name(('backbone', *rest))}"
  module, *inner = rest
  leaf = _LEAVES.get(inner[-1], inner[-1])
  if part == "pyramid":
    return f"backbone.{_PYRAMID[module]}.{leaf}"
  for pattern, replacement in _LAYERS:
    if re.fullmatch(pattern, module):
      module = re.sub(pattern, replacement, module)
      break
  if module == "conv_seg":
    return f"{part}.conv_seg.{leaf}"
  layer = "bn" if len(inner) == 2 else "conv"
  return f"{part}.{module}.{layer}.{leaf}"
