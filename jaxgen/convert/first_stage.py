"""Latent diffusion's first stages: checkpoint <-> parameters.

Two layouts, both read and written: that of CompVis/latent-diffusion's and
stable-diffusion's `.ckpt` files, alone or within a diffusion model's, and that
of diffusers' `AutoencoderKL` and `VQModel`.
"""

import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert import discriminator, lpips
from jaxgen.convert.state import ParamPath, State, below, fill, to_tensor
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.autoencoder import AutoencoderKL, FirstStage, attention_levels
from jaxgen.types import PyTree

PREFIX = "first_stage_model."

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}

_DIFFUSERS_LAYERS = {
  "nin_shortcut": "conv_shortcut",
  "norm": "group_norm",
  "q": "to_q",
  "k": "to_k",
  "v": "to_v",
  "proj_out": "to_out.0",
}
_OLD_DIFFUSERS_LAYERS = _DIFFUSERS_LAYERS | {
  "q": "query",
  "k": "key",
  "v": "value",
  "proj_out": "proj_attn",
}
_DIFFUSERS_MODULES = {
  "mid_block_1": "mid_block.resnets.0",
  "mid_attn_1": "mid_block.attentions.0",
  "mid_block_2": "mid_block.resnets.1",
  "norm_out": "conv_norm_out",
}
_DIFFUSERS_KINDS = {
  "block": "resnets",
  "attn": "attentions",
  "downsample": "downsamplers",
  "upsample": "upsamplers",
}


def load(path: str | Path, autoencoder: FirstStage) -> PyTree:
  """The parameters of a first stage.

  Args:
    path: a PyTorch or safetensors file in either layout. Of a whole diffusion
      model, the tensors under `first_stage_model.` are read.
    autoencoder: what the file holds, like `KL_AUTOENCODERS["kl-f8"]`, which is
      also Stable Diffusion's.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged or does not hold this network.
  """
  state = read_state(path)
  diffusers = any(".resnets." in name for name in state)
  return (from_diffusers if diffusers else from_original)(state, autoencoder)


def from_original(state: State, autoencoder: FirstStage) -> PyTree:
  """Parameters of `autoencoder` from the tensors of CompVis' network.

  A first stage's own checkpoint also holds what it was trained with, which is
  no part of it and left out: `loss.discriminator.*` (for which there is
  `jaxgen.convert.discriminator`), `loss.perceptual_loss.*`
  (`jaxgen.convert.lpips`), and `loss.logvar`, which was not trained. No other
  tensor may be left over.

  Args:
    state: tensor name -> array; if names begin with `first_stage_model.`, only
      these are looked at.
    autoencoder: the network.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  state = below(PREFIX, state)
  ignored = {
    *(discriminator.PREFIX + name for name in discriminator.names()),
    *(lpips.PREFIX + name for name in lpips.names()),
  }
  if isinstance(autoencoder, AutoencoderKL):
    ignored.add("loss.logvar")
  state = {name: x for name, x in state.items() if name not in ignored}
  return _fill(state, autoencoder, _original_name)


def to_original(
  params: PyTree, autoencoder: FirstStage
) -> dict[str, np.ndarray]:
  """The tensors of CompVis' network; inverse of `from_original`.

  Args:
    params: of `autoencoder`.
    autoencoder: the network.
  """
  del autoencoder  # its levels are numbered as ours
  pointwise = ("nin_shortcut", "q", "k", "v", "proj_out")
  return _export(params, _original_name, pointwise)


def from_diffusers(state: State, autoencoder: FirstStage) -> PyTree:
  """Parameters from the tensors of diffusers' AutoencoderKL or VQModel.

  The attention weights may have the names of older releases (`query`, ...).

  Args:
    state: tensor name -> array, every one of which must be used.
    autoencoder: the network.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape, or if
      `channel_mult` does not begin with 1, as diffusers' network does.
  """
  _check_first_width(autoencoder)
  old = any(name.endswith(".query.weight") for name in state)
  layers = _OLD_DIFFUSERS_LAYERS if old else _DIFFUSERS_LAYERS
  levels = len(autoencoder.channel_mult)
  return _fill(
    state, autoencoder, lambda path: _diffusers_name(path, levels, layers)
  )


def to_diffusers(
  params: PyTree, autoencoder: FirstStage
) -> dict[str, np.ndarray]:
  """The tensors of diffusers' network; inverse of `from_diffusers`.

  Args:
    params: of `autoencoder`.
    autoencoder: the network.

  Raises:
    ValueError: if `channel_mult` does not begin with 1.
  """
  _check_first_width(autoencoder)
  levels = len(autoencoder.channel_mult)
  name_of = lambda path: _diffusers_name(path, levels, _DIFFUSERS_LAYERS)
  return _export(params, name_of, pointwise=("nin_shortcut",))


def _fill(
  state: State,
  autoencoder: FirstStage,
  name_of: Callable[[ParamPath], str],
) -> PyTree:
  """`fill` with a template of the network, for images of the state's."""
  kernel = state.get("encoder.conv_in.weight")
  if kernel is None or kernel.ndim != 4:
    raise ValueError(
      "The checkpoint has no convolution encoder.conv_in.weight: not a first "
      "stage."
    )
  _check_attention(state, autoencoder)
  size = 2 ** (len(autoencoder.channel_mult) - 1)
  x = jnp.zeros((1, size, size, kernel.shape[1]))
  template = jax.eval_shape(autoencoder.init, jax.random.key(0), x)["params"]
  return fill(template, name_of, state)


def _check_first_width(autoencoder: FirstStage) -> None:
  if autoencoder.channel_mult[0] != 1:
    raise ValueError(
      "diffusers' autoencoders begin with the width of their first level: "
      f"channel_mult must begin with 1, got {autoencoder.channel_mult}."
    )


def _check_attention(state: State, autoencoder: FirstStage) -> None:
  """Raises where attention lies at other levels than in the checkpoint."""
  pattern = re.compile(
    r"encoder\.down(?:_blocks)?\.(\d+)\.(?:attn|attentions)\."
  )
  levels = sorted({int(m[1]) for m in map(pattern.match, state) if m})
  if tuple(levels) != attention_levels(autoencoder):
    raise ValueError(
      f"The checkpoint has attention at levels {levels}, the network at "
      f"{[*attention_levels(autoencoder)]}."
    )


def _export(
  params: PyTree,
  name_of: Callable[[ParamPath], str],
  pointwise: tuple[str, ...],
) -> dict[str, np.ndarray]:
  """PyTorch's tensors; `pointwise` layers are there 1 x 1 convolutions."""
  convolutions = (*pointwise, "quant_conv", "post_quant_conv")
  state = {}
  for path, leaf in flatten_dict(params).items():
    wide = path[-1] == "kernel" and path[-2] in convolutions
    state[name_of(path)] = to_tensor(path, leaf, ndim=4 if wide else None)
  return state


def _original_name(path: ParamPath) -> str:
  *modules, leaf = path
  leaf = _LEAVES.get(leaf, leaf)
  if len(modules) == 1:
    return f"{_beside(modules[0])}.{leaf}"
  half, module, *layers = modules
  if module.startswith(("down_", "up_")):
    module = module.replace("_", ".")
  elif module.startswith("mid_"):
    module = module.replace("_", ".", 1)
  if module.endswith("sample"):
    layers = ["conv"]
  return ".".join([half, module, *layers, leaf])


def _diffusers_name(
  path: ParamPath, levels: int, layer_names: dict[str, str]
) -> str:
  *modules, leaf = path
  leaf = _LEAVES.get(leaf, leaf)
  if len(modules) == 1:
    return f"{_beside(modules[0])}.{leaf}"
  half, module, *layers = modules
  match = re.fullmatch(r"(down|up)_(\d+)_([a-z]+)_?(\d*)", module)
  if match:
    side, level, kind, index = match.groups()
    # diffusers counts the levels of the way up from the smallest.
    level = int(level) if side == "down" else levels - 1 - int(level)
    module = f"{side}_blocks.{level}.{_DIFFUSERS_KINDS[kind]}.{index or 0}"
    if not layers:
      layers = ["conv"]
  module = _DIFFUSERS_MODULES.get(module, module)
  layers = [layer_names.get(layer, layer) for layer in layers]
  return ".".join([half, module, *layers, leaf])


def _beside(module: str) -> str:
  """The name of a module beside encoder and decoder, in both layouts."""
  return "quantize.embedding" if module == "quantizer" else module
