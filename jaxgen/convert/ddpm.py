"""Published DDPM and DDIM networks: checkpoint <-> parameters of `UNet`.

Three layouts are read: diffusers' (`google/ddpm-*`), with the old and the new
names of the attention weights, and the PyTorch layout of ermongroup/ddim and
pesser/pytorch_diffusion. diffusers' new layout is written.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.configs import check_count, check_levels, read_config
from jaxgen.convert.state import (
  ParamPath,
  State,
  fill,
  read_safetensors,
  to_torch,
  write_safetensors,
)
from jaxgen.convert.torch_files import read_torch
from jaxgen.messages import shown
from jaxgen.nn.ddpm_unet import UNet
from jaxgen.types import PyTree

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"

# Names of our layers in diffusers; those not listed are the same.
_DIFFUSERS_LAYERS = {
  "temb_proj": "time_emb_proj",
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
  "temb_dense0": "time_embedding.linear_1",
  "temb_dense1": "time_embedding.linear_2",
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
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

# Options of diffusers' UNet2DModel as DDPM's network has them: first those
# that differ from diffusers' defaults and must be present.
_EXPLICIT_OPTIONS = {
  "attention_head_dim": None,
  "downsample_padding": 0,
  "flip_sin_to_cos": False,
  "freq_shift": 1,
  "norm_eps": 1e-6,
}
_DEFAULT_OPTIONS = {
  "act_fn": "silu",
  "add_attention": True,
  "center_input_sample": False,
  "downsample_type": "conv",
  "mid_block_scale_factor": 1,
  "mid_block_type": "UNetMidBlock2D",
  "norm_num_groups": 32,
  "resnet_time_scale_shift": "default",
  "time_embedding_type": "positional",
  "upsample_type": "conv",
}
_READ_OPTIONS = (
  "sample_size",
  "in_channels",
  "out_channels",
  "block_out_channels",
  "layers_per_block",
  "down_block_types",
  "up_block_types",
)


def load(
  path: str | Path, image_size: int | None = None
) -> tuple[UNet, PyTree]:
  """A published network and its parameters.

  Args:
    path: a safetensors or PyTorch file; or a directory that holds, itself or
      under `unet/`, diffusers' config.json and
      diffusion_pytorch_model.safetensors. Of a checkpoint of ermongroup/ddim's
      training, the averaged parameters.
    image_size: height of the images, which says at which resolution the
      attention is: weights alone do not tell. Without it and a config.json it
      is taken to be at 16 x 16, as in all published models.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, or does not hold DDPM's network.
  """
  path = Path(path)
  config_path, weights_path = None, path
  if path.is_dir():
    folder = path / "unet" if (path / "unet").is_dir() else path
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
  state = _read(weights_path)
  if config_path is None or not config_path.exists():
    unet = _infer_unet(state, image_size)
  else:
    unet = _configured_unet(config_path, image_size)
  original = "temb.dense.0.weight" in state
  return unet, (from_original if original else from_diffusers)(state, unet)


def save(path: str | Path, params: PyTree, unet: UNet, image_size: int) -> None:
  """Writes a directory that `UNet2DModel.from_pretrained` loads.

  Args:
    path: the directory, made if need be.
    params: of `unet`.
    unet: the network.
    image_size: height and width of its images.
  """
  path = Path(path)
  state = to_diffusers(params, unet)
  levels = _attention_levels(state)
  heights = [image_size // 2**i for i in levels]
  if sorted(heights) != sorted(unet.attention_resolutions):
    raise ValueError(
      f"At image size {image_size} these parameters have attention at "
      f"heights {heights}, but the UNet at {unet.attention_resolutions}."
    )
  path.mkdir(parents=True, exist_ok=True)
  write_safetensors(path / WEIGHTS_FILE, state)
  has_attention = [i in levels for i in range(len(unet.channel_mult))]
  config = {
    "_class_name": "UNet2DModel",
    "sample_size": image_size,
    "in_channels": state["conv_in.weight"].shape[1],
    "out_channels": unet.out_channels,
    "block_out_channels": [unet.channels * m for m in unet.channel_mult],
    "layers_per_block": unet.num_res_blocks,
    "down_block_types": _block_types("Down", has_attention),
    "up_block_types": _block_types("Up", has_attention[::-1]),
    "dropout": unet.dropout,
  }
  config |= _EXPLICIT_OPTIONS | _DEFAULT_OPTIONS
  (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def from_diffusers(state: State, unet: UNet) -> PyTree:
  """Parameters of `unet` from diffusers' `UNet2DModel` tensors.

  Args:
    state: tensor name -> array, every one of which must be used.
    unet: the network.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  old = any(name.endswith(".query.weight") for name in state)
  layers = _OLD_DIFFUSERS_LAYERS if old else _DIFFUSERS_LAYERS
  levels = len(unet.channel_mult)
  return fill(
    _template(unet, state),
    lambda path: _diffusers_name(path, levels, layers),
    state,
  )


def from_original(state: State, unet: UNet) -> PyTree:
  """Like `from_diffusers`, from ermongroup/ddim's and pesser's tensors."""
  return fill(_template(unet, state), _original_name, state)


def to_diffusers(params: PyTree, unet: UNet) -> dict[str, np.ndarray]:
  """The tensors of diffusers' `UNet2DModel`; inverse of `from_diffusers`.

  Raises:
    ValueError: if `unet` has a patch size, which diffusers' network lacks.
  """
  if unet.patch_size != 1:
    raise ValueError(
      f"diffusers' UNet2DModel has no patches, got patch_size "
      f"{unet.patch_size}."
    )
  levels = len(unet.channel_mult)
  return {
    _diffusers_name(path, levels, _DIFFUSERS_LAYERS): to_torch(
      leaf, ndim=4 if path[-2:] == ("nin_shortcut", "kernel") else None
    )
    for path, leaf in flatten_dict(params).items()
  }


def _read(path: Path) -> State:
  """The tensors of a file."""
  if path.suffix == ".safetensors":
    return read_safetensors(path)
  content = read_torch(path)
  if isinstance(content, list):  # model, optimizer, epoch, step, average
    content = content[4] if len(content) > 4 else content[0]
  if not isinstance(content, dict) or not all(
    isinstance(x, np.ndarray) for x in content.values()
  ):
    raise ValueError(f"{path} does not hold the tensors of a network.")
  return {
    name.removeprefix("module."): np.asarray(x, np.float32)
    for name, x in content.items()
  }


def _diffusers_name(
  path: ParamPath, levels: int, layer_names: dict[str, str]
) -> str:
  module, *layers, leaf = path
  layers = [layer_names.get(layer, layer) for layer in layers]
  return ".".join([diffusers_module(module, levels), *layers, _LEAVES[leaf]])


def diffusers_module(module: str, levels: int) -> str:
  """diffusers' scope of a module of a U-Net of so many levels."""
  match = re.fullmatch(r"(down|up)_(\d+)_([a-z]+)_?(\d*)", module)
  if not match:
    return _DIFFUSERS_MODULES.get(module, module)
  side, level, kind, index = match.groups()
  # diffusers counts the levels of the way up from the smallest.
  level = int(level) if side == "down" else levels - 1 - int(level)
  return f"{side}_blocks.{level}.{_DIFFUSERS_KINDS[kind]}.{index or 0}"


def _original_name(path: ParamPath) -> str:
  module, *layers, leaf = path
  if module.startswith("temb_dense"):
    module = f"temb.dense.{module[-1]}"
  elif module.startswith(("down_", "up_")):
    module = module.replace("_", ".")
  elif module.startswith("mid_"):
    module = module.replace("_", ".", 1)
  return ".".join([module, *layers, _LEAVES[leaf]])


def _attention_levels(names: Iterable[str]) -> list[int]:
  """The levels with attention, in diffusers' or the original layout."""
  pattern = re.compile(r"down(?:_blocks)?\.(\d\d?)\.(?:attn|attentions)\.")
  return sorted({int(m[1]) for m in map(pattern.match, names) if m})


def _template(unet: UNet, state: State) -> PyTree:
  """The shapes of the parameters, attention being where the state has it."""
  if unet.patch_size != 1:
    raise ValueError(
      f"Published networks have no patches, got patch_size {unet.patch_size}."
    )
  levels = _attention_levels(state)
  heights = sorted(unet.attention_resolutions, reverse=True)
  sizes = {h * 2**i for h, i in zip(heights, levels, strict=False)}
  if len(levels) != len(heights) or len(sizes) > 1:
    raise ValueError(
      f"The checkpoint has attention at levels {levels}, which does not fit "
      f"the UNet's attention_resolutions {unet.attention_resolutions}."
    )
  size = sizes.pop() if sizes else 2 ** (len(unet.channel_mult) - 1)
  if "conv_in.weight" not in state:
    raise ValueError("The checkpoint has no conv_in.weight: not DDPM's UNet.")
  kernel = state["conv_in.weight"]
  if kernel.ndim != 4:
    raise ValueError(f"conv_in.weight has shape {kernel.shape}.")
  shape = (1, size, size, kernel.shape[1])
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(1))["params"]


def _infer_unet(state: State, image_size: int | None) -> UNet:
  """The network whose tensors these are, from their shapes."""
  pattern = re.compile(
    r"down(?:_blocks)?\.(\d\d?)\.(?:block|resnets)\.(\d\d?)\.conv1\.weight"
  )
  widths = {
    (int(m[1]), int(m[2])): len(state[m[0]])
    for m in map(pattern.fullmatch, state)
    if m and state[m[0]].ndim
  }
  ends = [state.get(f"conv_{end}.weight") for end in ("in", "out")]
  levels = 1 + max((level for level, _ in widths), default=0)
  if any(end is None or end.ndim < 1 or not len(end) for end in ends) or any(
    (level, 0) not in widths for level in range(min(levels, len(widths) + 1))
  ):
    raise ValueError("The checkpoint does not hold DDPM's UNet.")
  attention = _attention_levels(state)
  if attention and image_size is None:
    image_size = 16 * 2 ** attention[0]
  channels = len(state["conv_in.weight"])
  return UNet(
    channels=channels,
    channel_mult=tuple(widths[i, 0] // channels for i in range(levels)),
    num_res_blocks=1 + max(block for _, block in widths),
    attention_resolutions=tuple((image_size or 0) // 2**i for i in attention),
    dropout=0.0,
    out_channels=len(state["conv_out.weight"]),
  )


def _configured_unet(path: Path, image_size: int | None) -> UNet:
  """The network that diffusers' config.json describes."""
  config = read_config(path)
  _check_config(config, path)
  widths = config["block_out_channels"]
  attention = [kind.startswith("Attn") for kind in config["down_block_types"]]
  size = image_size or config["sample_size"]
  height = size[0] if isinstance(size, list) and size else size
  check_count(path, "sample_size", height)
  return UNet(
    channels=widths[0],
    channel_mult=tuple(width // widths[0] for width in widths),
    num_res_blocks=config["layers_per_block"],
    attention_resolutions=tuple(
      height // 2**i for i, here in enumerate(attention) if here
    ),
    dropout=config.get("dropout", 0.0),
    out_channels=config["out_channels"],
  )


def _check_config(config: dict[str, Any], path: Path) -> None:
  """Raises where a config describes another network than DDPM's."""
  absent = [k for k in (*_READ_OPTIONS, *_EXPLICIT_OPTIONS) if k not in config]
  if absent:
    raise ValueError(f"{path} lacks {', '.join(absent)}.")
  check_levels(
    path, config, "block_out_channels", "down_block_types", "up_block_types"
  )
  for name in ("layers_per_block", "out_channels", "in_channels"):
    check_count(path, name, config[name])
  dropout = config.get("dropout", 0.0)
  if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
    raise ValueError(f"{path} has dropout {shown(dropout)}.")
  wanted = _EXPLICIT_OPTIONS | _DEFAULT_OPTIONS
  attention = [kind.startswith("Attn") for kind in config["down_block_types"]]
  wanted["down_block_types"] = _block_types("Down", attention)
  wanted["up_block_types"] = _block_types("Up", attention[::-1])
  for name, value in config.items():
    if name.startswith("_") or name in (*_READ_OPTIONS[:5], "dropout"):
      continue
    if value != wanted.get(name):
      raise ValueError(
        f"{path} has {shown(name)[1:-1]} {shown(value)}, but DDPM's UNet has "
        f"{wanted.get(name)!r}."
      )


def _block_types(side: str, attention: list[bool]) -> list[str]:
  return [f"{'Attn' if here else ''}{side}Block2D" for here in attention]
