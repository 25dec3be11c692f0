"""VQGAN's discriminator: the tensors of its checkpoints <-> variables."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.state import ParamPath, State, below, fill, to_torch
from jaxgen.nn.discriminators import NLayerDiscriminator
from jaxgen.types import PyTree

PREFIX = "loss.discriminator."

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def from_original(
  state: State, discriminator: NLayerDiscriminator
) -> dict[str, PyTree]:
  """Variables of `discriminator` from the tensors of the PyTorch network.

  Batch normalisation's counters `num_batches_tracked`, which nothing reads,
  are left out.

  Args:
    state: tensor name -> array, named `main.0.weight`, ...; if names begin
      with `loss.discriminator.`, as in the checkpoint of a first stage, only
      these are looked at.
    discriminator: the network.

  Returns:
    "params" and "batch_stats".

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  state = below(PREFIX, state)
  channels = state["main.0.weight"].shape[1] if "main.0.weight" in state else 3
  template = _template(discriminator, channels)
  counters = _counters(discriminator.num_layers)
  state = {name: x for name, x in state.items() if name not in counters}
  return fill(template, _name, state)


def to_original(variables: Mapping[str, PyTree]) -> dict[str, np.ndarray]:
  """The tensors of the PyTorch network; inverse of `from_original`."""
  flat = flatten_dict(dict(variables))
  return {_name(path): to_torch(leaf) for path, leaf in flat.items()}


@functools.cache
def names() -> frozenset[str]:
  """The tensors that discriminators of 2 or 3 layers, the published, have."""
  out: set[str] = set()
  for num_layers in (2, 3):
    template = _template(NLayerDiscriminator(num_layers=num_layers), channels=3)
    out |= {_name(path) for path in flatten_dict(template)}
    out |= _counters(num_layers)
  return frozenset(out)


def _template(
  discriminator: NLayerDiscriminator, channels: int
) -> dict[str, PyTree]:
  size = 3 * 2**discriminator.num_layers
  x = jnp.zeros((1, size, size, channels))
  return jax.eval_shape(discriminator.init, jax.random.key(0), x)


def _name(path: ParamPath) -> str:
  """The original lists convolution, normalisation and rectifier by turns."""
  _, layer, leaf = path
  kind, index = layer.split("_")
  place = 3 * int(index) - (kind == "conv") if index != "0" else 0
  return f"main.{place}.{_LEAVES[leaf]}"


def _counters(num_layers: int) -> set[str]:
  return {f"main.{3 * i}.num_batches_tracked" for i in range(1, num_layers + 1)}
