"""The published noise-conditional classifier of yang-song/score_sde (Flax)."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxgen.convert.flax_files import read_msgpack
from jaxgen.convert.state import ParamPath, fill, to_torch
from jaxgen.nn.score_classifier import WideResNet
from jaxgen.types import PyTree

_MODULES = {
  "fourier": "GaussianFourierProjection_0",
  "temb_dense0": "Dense_0",
  "temb_dense1": "Dense_1",
  "conv_in": "init_conv",
  "norm_out": "pre-pool-bn",
  "dense_out": "Dense_2",
}
_LAYERS = {"norm1": "init_bn", "temb_proj": "Dense_0", "norm2": "bn_2"}


def load(path: str | Path, network: WideResNet) -> PyTree:
  """Parameters of the published classifier.

  Args:
    path: of the Flax checkpoint, which holds the parameters alone.
    network: the published one is `WideResNet()`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, or does not hold this network.
  """
  return from_flax(read_msgpack(path), network)


def from_flax(params: PyTree, network: WideResNet) -> PyTree:
  """Parameters of `network` from the original ones.

  Args:
    params: nested dictionaries, every array of which must be used.
    network: the network.

  Raises:
    ValueError: if an array is missing, unused or of the wrong shape.
  """
  x = jnp.zeros((1, 8, 8, len(network.mean)))
  template = jax.eval_shape(network.init, jax.random.key(0), x, jnp.ones(1))
  state = {
    name: to_torch(leaf) for name, leaf in flatten_dict(params, sep="/").items()
  }
  return fill(template["params"], flax_name, state)


def flax_name(path: ParamPath) -> str:
  """The name of a parameter in the original, separated by slashes."""
  module, *layers, leaf = path
  name = _MODULES.get(module, module)
  if match := re.fullmatch(r"group_(\d)_block_(\d+)", module):
    name = f"WideResnetGroup_{match[1]}/WideResnetBlock_{match[2]}"
  layers = [_LAYERS.get(layer, layer) for layer in layers]
  return "/".join([name, *layers, "W" if leaf == "w" else leaf])
