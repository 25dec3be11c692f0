"""Latent diffusion's and Stable Diffusion 1's U-Nets: tensors <-> parameters.

Two layouts are read and written: that of CompVis/latent-diffusion and
CompVis/stable-diffusion, and diffusers' `UNet2DConditionModel`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert import openai
from jaxgen.convert.ddpm import diffusers_module
from jaxgen.convert.state import ParamPath, State, fill, to_tensor, to_torch
from jaxgen.nn.conditioners import ClassEmbedder, SpatialRescaler
from jaxgen.nn.ldm_unet import UNet
from jaxgen.types import PyTree

PREFIX = "model.diffusion_model."  # in a whole model's checkpoint
EMA_PREFIX = "model_ema."

# Both layouts have a transformer's layers under the same names.
_TRANSFORMER_LAYERS = {
  "to_out": "to_out.0",
  "ff_in": "ff.net.0.proj",
  "ff_out": "ff.net.2",
}
_DIFFUSERS_LAYERS = {"emb_proj": "time_emb_proj", "shortcut": "conv_shortcut"}
_EMBEDDER = "embedding.weight"
_RESCALER = "channel_mapper.weight"


def unet_state(checkpoint: State, ema: bool = False) -> dict[str, np.ndarray]:
  """The U-Net's tensors of a whole model's checkpoint, without their prefix.

  Args:
    checkpoint: tensor name -> array, as CompVis' training writes it.
    ema: take the averaged ones, under `ema_name`.

  Raises:
    ValueError: if there are no such tensors.
  """
  names = [name for name in checkpoint if name.startswith(PREFIX)]
  if not names:
    raise ValueError(f"The checkpoint has no tensors under {PREFIX}.")
  sources = {name: ema_name(name) if ema else name for name in names}
  missing = sorted(set(sources.values()) - set(checkpoint))
  if missing:
    raise ValueError(
      f"The checkpoint lacks averages of {len(missing)} of its "
      f"{len(names)} tensors, first {missing[0]}."
    )
  return {
    name.removeprefix(PREFIX): checkpoint[source]
    for name, source in sources.items()
  }


def ema_name(name: str) -> str:
  """The name of a tensor's average in a whole model's checkpoint.

  Averages are buffers of PyTorch, whose names have no dots:
  model.diffusion_model.out.2.bias -> model_ema.diffusion_modelout2bias.

  Raises:
    ValueError: if the tensor is not the U-Net's: no other is averaged.
  """
  if not name.startswith(PREFIX):
    raise ValueError(f"Tensors under {PREFIX} have averages, not {name}.")
  return EMA_PREFIX + name.removeprefix("model.").replace(".", "")


def from_original(state: State, network: UNet) -> PyTree:
  """Parameters of `network` from CompVis' tensors.

  Args:
    state: tensor name -> array, every one of which must be used; see
      `unet_state`.
    network: the network.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  template = _template(network)
  modules = set(template)
  return fill(
    template, lambda path: _original_name(path, network, modules), state
  )


def to_original(params: PyTree, network: UNet) -> dict[str, np.ndarray]:
  """CompVis' tensors; inverse of `from_original`."""
  modules = set(params)
  return {
    _original_name(path, network, modules): to_tensor(
      path, leaf, _ndim(path, network)
    )
    for path, leaf in flatten_dict(params).items()
  }


def from_diffusers(state: State, network: UNet) -> PyTree:
  """Like `from_original`, from diffusers' `UNet2DConditionModel` tensors.

  Raises:
    ValueError: also if the network is none of diffusers': without a context,
      or with residual blocks that scale and shift or that resize.
  """
  _check_diffusers(network)
  return fill(
    _template(network),
    lambda path: _diffusers_name(path, len(network.channel_mult)),
    state,
  )


def to_diffusers(params: PyTree, network: UNet) -> dict[str, np.ndarray]:
  """diffusers' tensors; inverse of `from_diffusers`, and raises like it."""
  _check_diffusers(network)
  levels = len(network.channel_mult)
  return {
    _diffusers_name(path, levels): to_tensor(path, leaf, _ndim(path, network))
    for path, leaf in flatten_dict(params).items()
  }


def embedder_from_original(state: State, embedder: ClassEmbedder) -> PyTree:
  """Parameters from the tensors under cond_stage_model, without that prefix.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  labels = jnp.zeros(1, jnp.int32)
  template = jax.eval_shape(embedder.init, jax.random.key(0), labels)["params"]
  return fill(template, lambda path: _EMBEDDER, state)


def embedder_to_original(params: PyTree) -> dict[str, np.ndarray]:
  """The inverse of `embedder_from_original`."""
  return {_EMBEDDER: np.asarray(params["embedding"]["embedding"])}


def rescaler_from_original(state: State, rescaler: SpatialRescaler) -> PyTree:
  """Like `embedder_from_original`. The input channels are the tensor's."""
  rate = 2**rescaler.num_stages
  channels = state[_RESCALER].shape[1] if _RESCALER in state else 1
  x = jnp.zeros((1, rate, rate, channels))
  template = jax.eval_shape(rescaler.init, jax.random.key(0), x)["params"]
  return fill(template, lambda path: _RESCALER, state)


def rescaler_to_original(params: PyTree) -> dict[str, np.ndarray]:
  """The inverse of `rescaler_from_original`."""
  return {_RESCALER: to_torch(params["channel_mapper"]["kernel"], 4)}


def _original_name(path: ParamPath, network: UNet, modules: set[str]) -> str:
  module, *layers, leaf = path
  if "_attn_" not in module:
    return openai.tensor_name(path, network, modules)
  scope = openai.module_name(module, network, modules)
  return ".".join([scope, *map(_layer, layers), openai.LEAVES.get(leaf, leaf)])


def _diffusers_name(path: ParamPath, levels: int) -> str:
  module, *layers, leaf = path
  scope = diffusers_module(module, levels)
  if module == "label_emb":
    scope = "class_embedding"
  elif "_attn_" in module:
    layers = [_layer(layer) for layer in layers]
  elif module.endswith("sample"):
    layers = ["conv"]
  else:
    layers = [_DIFFUSERS_LAYERS.get(layer, layer) for layer in layers]
  return ".".join([scope, *layers, openai.LEAVES.get(leaf, leaf)])


def _layer(name: str) -> str:
  """The name of a transformer's layer in PyTorch."""
  name = name.replace("block_", "transformer_blocks.")
  return _TRANSFORMER_LAYERS.get(name, name)


def _ndim(path: ParamPath, network: UNet) -> int | None:
  """Axes of a kernel that PyTorch has as a convolution of size 1."""
  if network.context_dim is None:
    return openai.kernel_ndim(path, network)
  *_, scope, leaf = path
  convolutions = ("proj_in", "proj_out", "shortcut")
  return 4 if leaf == "kernel" and scope in convolutions else None


def _check_diffusers(network: UNet) -> None:
  resizes = network.resblock_updown or not network.conv_resample
  if network.context_dim is None or network.scale_shift_norm or resizes:
    raise ValueError(
      "diffusers' UNet2DConditionModel has a context, convolutions that "
      "resize and an embedding that is added, got context_dim "
      f"{network.context_dim}, resblock_updown {network.resblock_updown}, "
      f"conv_resample {network.conv_resample} and scale_shift_norm "
      f"{network.scale_shift_norm}."
    )


def _template(network: UNet) -> PyTree:
  """The shapes of the parameters, which are those of any size of x."""
  size = 2 ** (len(network.channel_mult) - 1)
  shape = (1, size, size)
  conditions = {}
  if network.context_dim is not None:
    conditions["context"] = jnp.zeros((1, 1, network.context_dim))
  if network.concat_channels:
    conditions["concat"] = jnp.zeros((*shape, network.concat_channels))
  if network.num_classes is not None:
    conditions["y"] = jnp.zeros(1, jnp.int32)
  x = jnp.zeros((*shape, network.out_channels))
  return jax.eval_shape(
    network.init, jax.random.key(0), x, jnp.zeros(1), **conditions
  )["params"]
