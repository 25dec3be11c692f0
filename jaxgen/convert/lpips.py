"""LPIPS with VGG16: published weights <-> parameters of `LPIPS`.

They come in two files: torchvision's VGG16 (`vgg16-397923af.pth`) and the
weights of the distance (`vgg.pth` of richzhang/PerceptualSimilarity, version
0.1, which CompVis/taming-transformers downloads too). Checkpoints of first
stages hold both under `loss.perceptual_loss.`.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.state import ParamPath, State, below, fill, to_torch
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.lpips import LPIPS, STAGES
from jaxgen.types import PyTree

PREFIX = "loss.perceptual_loss."

# Constants of the network, and torchvision's classifier, which has no part in
# the distance.
_SCALING = {"scaling_layer.shift", "scaling_layer.scale"}
_CLASSIFIER = {
  f"classifier.{i}.{leaf}" for i in (0, 3, 6) for leaf in ("weight", "bias")
}
_SLICES = {
  str(place): f"net.slice{k + 1}.{place}"
  for k, (_, places) in enumerate(STAGES)
  for place in places
}


def load(vgg: str | Path, distance: str | Path) -> PyTree:
  """The parameters of `LPIPS` from the two published files.

  Args:
    vgg: torchvision's VGG16, .pth or safetensors.
    distance: the weights of the five layers.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a file is damaged or does not hold these weights.
  """
  return from_torchvision(read_state(vgg), read_state(distance))


def from_torchvision(vgg: State, distance: State) -> PyTree:
  """Parameters of `LPIPS` from VGG16's tensors and those of the distance.

  Args:
    vgg: `features.N.weight` and `.bias`; `classifier.*` is left out.
    distance: `lin0.model.1.weight`, ..., `lin4.model.1.weight`.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  state = {name: x for name, x in vgg.items() if name not in _CLASSIFIER}
  return fill(_template(), _torchvision_name, {**state, **distance})


def from_original(state: State) -> PyTree:
  """Parameters of `LPIPS` from the tensors of the whole PyTorch network.

  Args:
    state: `net.slice1.0.weight`, ..., `lin4.model.1.weight`, and the constants
      `scaling_layer.*`; if names begin with `loss.perceptual_loss.`, as in the
      checkpoint of a first stage, only these are looked at.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  state = below(PREFIX, state)
  state = {name: x for name, x in state.items() if name not in _SCALING}
  return fill(_template(), _original_name, state)


def to_torchvision(
  params: PyTree,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """VGG16's tensors and the distance's; inverse of `from_torchvision`."""
  vgg: dict[str, np.ndarray] = {}
  distance: dict[str, np.ndarray] = {}
  for path, leaf in flatten_dict(params).items():
    part = vgg if path[0] == "vgg" else distance
    ndim = None if path[0] == "vgg" else 4
    part[_torchvision_name(path)] = to_torch(leaf, ndim)
  return vgg, distance


@functools.cache
def names() -> frozenset[str]:
  """The tensors of the whole PyTorch network."""
  own = {_original_name(path) for path in flatten_dict(_template())}
  return frozenset(own | _SCALING)


def _template() -> PyTree:
  x = jnp.zeros((1, 16, 16, 3))
  return jax.eval_shape(LPIPS().init, jax.random.key(0), x, x)["params"]


def _torchvision_name(path: ParamPath) -> str:
  if path[0] != "vgg":
    return f"{path[0]}.model.1.weight"
  _, layer, leaf = path
  leaf = "weight" if leaf == "kernel" else leaf
  return f"{layer.replace('_', '.')}.{leaf}"


def _original_name(path: ParamPath) -> str:
  name = _torchvision_name(path)
  if path[0] != "vgg":
    return name
  _, place, leaf = name.split(".")
  return f"{_SLICES[place]}.{leaf}"
