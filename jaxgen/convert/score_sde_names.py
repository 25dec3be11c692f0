"""Names of NCSN++'s tensors in its published layouts.

The original code numbers its modules in the order in which it builds them:
PyTorch's all of them, Flax's those of a class.
"""

import re
from collections import Counter
from typing import NamedTuple

from jaxgen.convert.state import ParamPath
from jaxgen.nn.ncsnpp import NCSNpp

# Names of our layers inside the original blocks; the shortcut and the
# convolutions that resample depend on the network.
_LAYERS = {
  "norm1": "GroupNorm_0",
  "conv1": "Conv_0",
  "temb_proj": "Dense_0",
  "norm2": "GroupNorm_1",
  "conv2": "Conv_1",
  "norm": "GroupNorm_0",
  "q": "NIN_0",
  "k": "NIN_1",
  "v": "NIN_2",
  "proj_out": "NIN_3",
}
_NIN_LEAVES = {"kernel": "W", "bias": "b"}
_TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

_DIFFUSERS_LAYERS = {
  "temb_proj": "time_emb_proj",
  "shortcut": "conv_shortcut",
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
  "fourier": "time_proj",
  "temb_dense0": "time_embedding.linear_1",
  "temb_dense1": "time_embedding.linear_2",
  "mid_block_1": "mid_block.resnets.0",
  "mid_attn_1": "mid_block.attentions.0",
  "mid_block_2": "mid_block.resnets.1",
  "up_0_output_norm_out": "conv_norm_out",
  "up_0_output_conv_out": "conv_out",
}
_DIFFUSERS_KINDS = {
  "block": "resnets",
  "attn": "attentions",
  "downsample": "resnet_down",
  "input_combine": "skip_conv",
  "upsample": "resnet_up",
  "output_norm_out": "skip_norm",
  "output_conv_out": "skip_conv",
}


class Part(NamedTuple):
  """A module of ours and the class that the original builds for it.

  Attributes:
    name: of our module.
    kind: the original class, without its variant.
    listed: whether PyTorch's list has it; it omits what has no weights and
      is built once for all levels.
  """

  name: str
  kind: str
  listed: bool = True


def parts(unet: NCSNpp, attention: set[int]) -> list[Part]:
  """The modules of `unet` in the order in which the original builds them.

  Args:
    unet: the network.
    attention: the levels that have attention.
  """
  resampled = "ResnetBlock" if unet.resblock == "biggan" else None
  levels = range(len(unet.channel_mult))
  out = []
  if unet.conditional:
    if unet.embedding == "fourier":
      out.append(Part("fourier", "GaussianFourierProjection"))
    out += [Part("temb_dense0", "Dense"), Part("temb_dense1", "Dense")]
  out.append(Part("conv_in", "Conv"))
  for i in levels:
    for j in range(unet.num_res_blocks):
      out.append(Part(f"down_{i}_block_{j}", "ResnetBlock"))
      if i in attention:
        out.append(Part(f"down_{i}_attn_{j}", "AttnBlock"))
    if i != levels[-1]:
      out.append(Part(f"down_{i}_downsample", resampled or "Downsample"))
      out += _input_parts(unet, f"down_{i}_input")
  out += [
    Part("mid_block_1", "ResnetBlock"),
    Part("mid_attn_1", "AttnBlock"),
    Part("mid_block_2", "ResnetBlock"),
  ]
  for i in reversed(levels):
    for j in range(unet.num_res_blocks + 1):
      out.append(Part(f"up_{i}_block_{j}", "ResnetBlock"))
    if i in attention:
      out.append(Part(f"up_{i}_attn", "AttnBlock"))
    out += _output_parts(unet, f"up_{i}_output", first=i == levels[-1])
    if i != 0:
      out.append(Part(f"up_{i}_upsample", resampled or "Upsample"))
  if unet.progressive != "output_skip":
    out += [Part("norm_out", "GroupNorm"), Part("conv_out", "Conv")]
  return out


def _input_parts(unet: NCSNpp, name: str) -> list[Part]:
  if unet.progressive_input == "input_skip":
    combine = Part(f"{name}_combine", "Combine")
    return [Part(name, "Downsample", listed=False), combine]
  if unet.progressive_input == "residual":
    return [Part(name, "Downsample")]
  return []


def _output_parts(unet: NCSNpp, name: str, first: bool) -> list[Part]:
  normed = [
    Part(f"{name}_norm_out", "GroupNorm"),
    Part(f"{name}_conv_out", "Conv"),
  ]
  if unet.progressive == "output_skip":
    return normed if first else [Part(name, "Upsample", listed=False), *normed]
  if unet.progressive == "residual":
    return normed if first else [Part(name, "Upsample")]
  return []


def pytorch_modules(unet: NCSNpp, attention: set[int]) -> dict[str, str]:
  """Our modules' names -> score_sde_pytorch's."""
  listed = [part for part in parts(unet, attention) if part.listed]
  return {part.name: f"all_modules.{i}" for i, part in enumerate(listed)}


def flax_modules(
  unet: NCSNpp, attention: set[int], model: str
) -> dict[str, str]:
  """Our modules' names -> score_sde's, for its model "ncsnpp" or "ddpm"."""
  block = "BigGANpp" if unet.resblock == "biggan" else "DDPMpp"
  classes = {"ResnetBlock": f"ResnetBlock{block}", "AttnBlock": "AttnBlockpp"}
  if model == "ddpm":
    classes = {"ResnetBlock": "ResnetBlockDDPM"}
  counts: Counter[str] = Counter()
  out = {}
  for part in parts(unet, attention):
    kind = classes.get(part.kind, part.kind)
    out[part.name] = f"{kind}_{counts[kind]}"
    counts[kind] += 1
  return out


def _original_layers(path: ParamPath, unet: NCSNpp) -> list[str]:
  """The original names of the layers between a module and its tensor."""
  module, *layers, _ = path
  if module.endswith("_combine"):
    return ["Conv_0"]
  special = {
    "shortcut": "Conv_2" if unet.resblock == "biggan" else "NIN_0",
    "conv": "Conv2d_0" if unet.fir_kernel else "Conv_0",
  }
  return [(_LAYERS | special)[layer] for layer in layers]


def pytorch_name(path: ParamPath, modules: dict[str, str], unet: NCSNpp) -> str:
  """The name of a parameter in score_sde_pytorch's state dict."""
  layers = _original_layers(path, unet)
  leaves = _TORCH_LEAVES | {"w": "W"}
  if layers and layers[0].startswith("NIN"):
    leaves = _NIN_LEAVES
  return ".".join([modules[path[0]], *layers, leaves[path[-1]]])


def flax_name(path: ParamPath, modules: dict[str, str], unet: NCSNpp) -> str:
  """The name of a parameter in score_sde's tree, separated by slashes."""
  layers = _original_layers(path, unet)
  leaves = {"w": "W"}
  if layers and layers[0].startswith("NIN"):
    leaves = _NIN_LEAVES
  if layers == ["Conv2d_0"]:
    leaves = {"kernel": "weight"}
  leaf = leaves.get(path[-1], path[-1])
  return "/".join([modules[path[0]], *layers, leaf])


def diffusers_name(path: ParamPath, levels: int, old: bool = False) -> str:
  """The name of a parameter in the state dict of diffusers' `UNet2DModel`.

  Args:
    path: of the parameter.
    levels: of the network.
    old: with the names that attention weights had in older releases.
  """
  module, *layers, leaf = path
  if module in _DIFFUSERS_MODULES:
    module = _DIFFUSERS_MODULES[module]
  elif match := re.fullmatch(r"(down|up)_(\d+)_([a-z_]*[a-z])_?(\d*)", module):
    side, level, kind, index = match.groups()
    # diffusers counts the levels of the way up from the smallest.
    level = int(level) if side == "down" else levels - 1 - int(level)
    module = f"{side}_blocks.{level}.{_DIFFUSERS_KINDS[kind]}"
    if kind in ("block", "attn"):
      module += f".{index or 0}"
  renamed = _OLD_DIFFUSERS_LAYERS if old else _DIFFUSERS_LAYERS
  layers = [renamed.get(layer, layer) for layer in layers]
  return ".".join([module, *layers, (_TORCH_LEAVES | {"w": "weight"})[leaf]])
