"""Published NCSN and NCSNv2 networks: checkpoint <-> parameters of `NCSN`.

The layout is that of ermongroup/ncsn and ermongroup/ncsnv2 (`.pth`).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.noise_levels import check_sigmas
from jaxgen.convert.state import ParamPath, State, fill, to_tensor
from jaxgen.convert.torch_files import read_torch
from jaxgen.diffusion.schedules import geometric_sigmas
from jaxgen.nn.ncsn import NCSN
from jaxgen.types import PyTree

# Suffixes of res... by stage and of refine... in the order they run, by the
# number of stages.
_STAGES = {
  4: ("1", "2", "3", "4"),
  5: ("1", "2", "3", "4", "5"),
  6: ("1", "2", "3", "31", "4", "5"),
}
_REFINEMENTS = _STAGES | {6: ("1", "2", "31", "3", "4", "5")}

_MODULES = {
  "begin_conv": "begin_conv",
  "end_conv": "end_conv",
  "norm_out": "normalizer",
}
_LAYERS = {"norm1": "normalize1", "norm2": "normalize2"}
_PARTS = {
  "adapt": "adapt_convs",
  "join_conv": "msf.convs",
  "join_norm": "msf.norms",
  "pool_conv": "crp.convs",
  "pool_norm": "crp.norms",
}
_LEAVES = {"kernel": "weight", "embedding": "embed.weight"}


def load(path: str | Path, network: NCSN, ema: bool = True) -> PyTree:
  """Parameters of a published network.

  Args:
    path: of the checkpoint.
    network: one of `jaxgen.nn.ncsn.NETWORKS`: checkpoints do not hold its
      configuration.
    ema: the averaged parameters, which NCSNv2's checkpoints have and NCSN's
      lack.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, or does not hold this network.
  """
  return from_pytorch(pytorch_state(read_torch(path), ema), network)


def pytorch_state(
  checkpoint: Sequence[Any], ema: bool = True
) -> dict[str, np.ndarray]:
  """The tensors of a network in a checkpoint of ermongroup's, by name.

  Args:
    checkpoint: its list: model, optimizer and, in NCSNv2's, epoch, step and
      averaged parameters.
    ema: the averaged parameters.

  Raises:
    ValueError: if it does not hold them.
  """
  if not isinstance(checkpoint, Sequence) or not checkpoint:
    raise ValueError(
      "The checkpoint is no list of model and optimizer, as NCSN's are, but "
      f"{type(checkpoint).__name__}."
    )
  state = {
    name.removeprefix("module."): np.asarray(tensor)
    for name, tensor in checkpoint[0].items()
  }
  if not ema:
    return state
  if len(checkpoint) < 5:
    raise ValueError(
      "The checkpoint has no averaged parameters; NCSN's are read with "
      "ema=False."
    )
  averages = {name: np.asarray(x) for name, x in checkpoint[4].items()}
  if {*averages} != {*state} - {"sigmas"}:
    raise ValueError(
      f"The checkpoint's {len(averages)} averages do not fit its model."
    )
  return state | averages


def from_pytorch(state: State, network: NCSN) -> PyTree:
  """Parameters of `network` from the original tensors.

  Args:
    state: tensor name -> array, every one of which must be used. The noise
      levels `sigmas`, if there, must be the network's.
    network: the network.

  Raises:
    ValueError: if a tensor is missing, unused or wrong.
  """
  weights = {name: x for name, x in state.items() if name != "sigmas"}
  if "begin_conv.weight" not in weights:
    raise ValueError("The checkpoint has no begin_conv.weight: not NCSN's.")
  if "sigmas" in state:
    check_sigmas(state["sigmas"], _sigmas(network))
  size = 2 ** len(network.channel_mult)
  x = jnp.zeros((1, size, size, weights["begin_conv.weight"].shape[1]))
  template = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1))
  stages = _checked_stages(network)
  return fill(
    template["params"], lambda path: _pytorch_name(path, stages), weights
  )


def to_pytorch(params: PyTree, network: NCSN) -> dict[str, np.ndarray]:
  """The original tensors; inverse of `from_pytorch`."""
  stages = _checked_stages(network)
  state = {
    _pytorch_name(path, stages): to_tensor(path, leaf)
    for path, leaf in flatten_dict(params).items()
  }
  if not network.conditional:
    state["sigmas"] = _sigmas(network).astype(np.float32)
  return state


def _sigmas(network: NCSN) -> np.ndarray:
  return geometric_sigmas(
    network.num_scales, network.sigma_max, network.sigma_min
  )


def _checked_stages(network: NCSN) -> int:
  stages = len(network.channel_mult)
  if stages not in _STAGES:
    raise ValueError(f"NCSN was published with 4 to 6 stages, got {stages}.")
  return stages


def _pytorch_name(path: ParamPath, stages: int) -> str:
  module, *layers, leaf = path
  name = _MODULES.get(module, module)
  if match := re.fullmatch(r"stage_(\d)_block_(\d)", module):
    name = f"res{_STAGES[stages][int(match[1])]}.{match[2]}"
    layers = [_LAYERS.get(layer, layer) for layer in layers]
    pooled = 0 < int(match[1]) < stages - 2 and match[2] == "0"
    if pooled and layers[0] in ("conv2", "shortcut"):
      layers.append("conv")  # of the original's pooled convolution
  elif match := re.fullmatch(r"refine_(\d)", module):
    # The first refinement is that of the last stage.
    name = f"refine{_REFINEMENTS[stages][stages - 1 - int(match[1])]}"
    layers = _refine_layers(layers)
  return ".".join([name, *layers, _LEAVES.get(leaf, leaf)])


def _refine_layers(layers: list[str]) -> list[str]:
  """The original names of a refinement's layers."""
  first, *rest = layers
  if first == "output":
    out = ["output_convs"]
  else:
    part, index = first.rsplit("_", 1)
    out = [_PARTS[part], index]
  for layer in rest:  # conv_0_1 is 1_2_conv
    kind, unit, position = layer.split("_")
    out.append(f"{int(unit) + 1}_{int(position) + 1}_{kind}")
  return out
