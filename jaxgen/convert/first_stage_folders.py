"""First stages as diffusers keeps them: folders of a config and weights."""

from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.convert.configs import (
  check_count,
  check_levels,
  read_config,
  write_config,
)
from jaxgen.convert.first_stage import from_diffusers, to_diffusers
from jaxgen.convert.state import read_safetensors, write_safetensors
from jaxgen.messages import shown
from jaxgen.nn.autoencoder import (
  AutoencoderKL,
  FirstStage,
  VQAutoencoder,
  attention_levels,
)
from jaxgen.types import PyTree

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"

# What diffusers' classes can be told and our networks are: their defaults.
_OPTIONS: dict[str, Any] = {"act_fn": "silu", "norm_num_groups": 32}
_CLASS_OPTIONS: dict[str, dict[str, Any]] = {
  "AutoencoderKL": {
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
  },
  "VQModel": {
    "norm_type": "group",
    "lookup_from_codebook": False,
  },
}


class Loaded(NamedTuple):
  """A first stage from a folder.

  Attributes:
    autoencoder: the network.
    params: its parameters.
    scaling_factor: c, by which latents are multiplied before diffusion.
  """

  autoencoder: FirstStage
  params: PyTree
  scaling_factor: float


def load(path: str | Path) -> Loaded:
  """Reads a folder that `AutoencoderKL` or `VQModel` of diffusers saved.

  Args:
    path: of the folder; that of a whole pipeline has it under `vae/` or
      `vqvae/`.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file is damaged, or describes another network.
  """
  folder = Path(path)
  for name in ("vae", "vqvae"):
    if (folder / name).is_dir():
      folder = folder / name
  autoencoder, scale = configured(folder / CONFIG_FILE)
  state = read_safetensors(folder / WEIGHTS_FILE)
  return Loaded(autoencoder, from_diffusers(state, autoencoder), scale)


def configured(path: str | Path) -> tuple[FirstStage, float]:
  """The network that a config.json describes, and its scaling factor.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or describes another network.
  """
  config = read_config(path)
  # diffusers' default, where older releases left it out.
  scale = config.get("scaling_factor", 0.18215)
  if type(scale) not in (int, float) or not 0 < scale < float("inf"):
    raise ValueError(f"{path} has scaling_factor {shown(scale)}.")
  return _network(config, Path(path)), float(scale)


def save(
  path: str | Path,
  params: PyTree,
  autoencoder: FirstStage,
  scaling_factor: float,
) -> None:
  """Writes a folder that diffusers' `from_pretrained` loads.

  Args:
    path: the folder, made if need be.
    params: of `autoencoder`.
    autoencoder: the network.
    scaling_factor: c, by which latents are multiplied before diffusion.

  Raises:
    ValueError: if `channel_mult` does not begin with 1.
  """
  state = to_diffusers(params, autoencoder)
  levels = attention_levels(autoencoder)
  kinds = ["Attn" * (i in levels) for i in range(len(autoencoder.channel_mult))]
  config = {
    "sample_size": autoencoder.resolution,
    "in_channels": state["encoder.conv_in.weight"].shape[1],
    "out_channels": autoencoder.out_channels,
    "block_out_channels": [
      autoencoder.channels * m for m in autoencoder.channel_mult
    ],
    "layers_per_block": autoencoder.num_res_blocks,
    "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
    "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in kinds[::-1]],
    "latent_channels": autoencoder.z_channels,
    "mid_block_add_attention": autoencoder.mid_attention,
    "scaling_factor": scaling_factor,
  }
  if isinstance(autoencoder, VQAutoencoder):
    config |= {"_class_name": "VQModel"}
    config |= {"num_vq_embeddings": autoencoder.num_codes}
  else:
    config |= {"_class_name": "AutoencoderKL"}
  config |= _OPTIONS | _CLASS_OPTIONS[config["_class_name"]]
  folder = Path(path)
  folder.mkdir(parents=True, exist_ok=True)
  write_safetensors(folder / WEIGHTS_FILE, state)
  write_config(folder / CONFIG_FILE, config)


def _network(config: dict[str, Any], path: Path) -> FirstStage:
  """The network that a config describes."""
  kind = config.get("_class_name")
  if not isinstance(kind, str) or kind not in _CLASS_OPTIONS:
    described = shown(kind).strip("'")
    raise ValueError(
      f"{path} describes {described}, not {' or '.join(_CLASS_OPTIONS)}."
    )
  wanted = _OPTIONS | _CLASS_OPTIONS[kind]
  wanted["vq_embed_dim"] = config.get("latent_channels")
  for name, value in wanted.items():
    got = config.get(name)
    if got is not None and got != value:
      raise ValueError(
        f"{path} has {name} {shown(got)}, but a first stage needs "
        f"{shown(value)}."
      )
  try:
    check_levels(
      path, config, "block_out_channels", "down_block_types", "up_block_types"
    )
    for name in ("latent_channels", "layers_per_block", "out_channels"):
      check_count(path, name, config[name])
    widths = config["block_out_channels"]
    down = [_has_attention(name, "Down") for name in config["down_block_types"]]
    up = [_has_attention(name, "Up") for name in config["up_block_types"]]
    if up[::-1] != down or any(w % widths[0] for w in widths):
      raise ValueError(
        f"{path} has other blocks on the way up than down, or widths {widths} "
        f"that are no multiples of the first."
      )
    size = config.get("sample_size", 256)
    resolution = size[0] if isinstance(size, list) and size else size
    check_count(path, "sample_size", resolution)
    middle = config.get("mid_block_add_attention", True)
    if not isinstance(middle, bool):
      raise ValueError(f"{path} has mid_block_add_attention {shown(middle)}.")
    fields = {
      "z_channels": config["latent_channels"],
      "channel_mult": tuple(w // widths[0] for w in widths),
      "attention_resolutions": tuple(
        resolution // 2**i for i, here in enumerate(down) if here
      ),
      "resolution": resolution,
      "mid_attention": middle,
      "channels": widths[0],
      "num_res_blocks": config["layers_per_block"],
      "out_channels": config["out_channels"],
    }
    if kind == "VQModel":
      check_count(path, "num_vq_embeddings", config["num_vq_embeddings"])
      return VQAutoencoder(num_codes=config["num_vq_embeddings"], **fields)
  except KeyError as error:
    raise ValueError(f"{path} does not say {error}.") from error
  return AutoencoderKL(**fields)


def _has_attention(name: str, side: str) -> bool:
  """Whether a block of diffusers has attention."""
  block = {"Down": "DownEncoderBlock2D", "Up": "UpDecoderBlock2D"}[side]
  if name not in (block, f"Attn{block}"):
    got = shown(name)[1:-1]
    raise ValueError(
      f"A first stage has blocks {block} and Attn{block}, got {got}."
    )
  return name != block
