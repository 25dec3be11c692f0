"""Stable Diffusion 1 as diffusers has it: a folder for each network.

unet/          config.json, diffusion_pytorch_model.safetensors
vae/           config.json, diffusion_pytorch_model.safetensors
text_encoder/  config.json, model.safetensors
tokenizer/     vocab.json, merges.txt; or tokenizer.json
scheduler/     scheduler_config.json
"""

import shutil
from pathlib import Path
from typing import Any

from jaxgen.convert import clip, first_stage, first_stage_folders, ldm_unet
from jaxgen.convert.configs import check_config, read_config, write_config
from jaxgen.convert.sd1 import SCALE_FACTOR, SD1, Networks, Params
from jaxgen.convert.state import State, write_safetensors
from jaxgen.convert.torch_files import read_state
from jaxgen.data.tokenizers import TextTokenizer, clip_files, clip_tokenizer_of
from jaxgen.nn.autoencoder import AutoencoderKL
from jaxgen.nn.clip_text import ClipText
from jaxgen.nn.ldm_unet import UNet

_WEIGHTS = "diffusion_pytorch_model"
_TEXT_WEIGHTS = ("model", "pytorch_model")

# Options of diffusers' networks and schedulers as Stable Diffusion 1 has them,
# which a file need not mention.
_UNET_DEFAULTS = {
  "act_fn": "silu",
  "addition_embed_type_num_heads": 64,
  "attention_type": "default",
  "center_input_sample": False,
  "class_embeddings_concat": False,
  "conv_in_kernel": 3,
  "conv_out_kernel": 3,
  "downsample_padding": 1,
  "dropout": 0.0,
  "dual_cross_attention": False,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "mid_block_scale_factor": 1,
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "norm_eps": 1e-5,
  "norm_num_groups": 32,
  "only_cross_attention": False,
  "resnet_out_scale_factor": 1.0,
  "resnet_skip_time_act": False,
  "resnet_time_scale_shift": "default",
  "time_embedding_type": "positional",
  "transformer_layers_per_block": 1,
  "upcast_attention": False,
  "use_linear_projection": False,
}
_SCHEDULE = {
  "num_train_timesteps": 1000,
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
}
_SCHEDULE_DEFAULTS = {
  "prediction_type": "epsilon",
  "rescale_betas_zero_snr": False,
  "trained_betas": None,
}
# The sampler of the release (Liu et al. 2022, pseudo linear multistep).
_SCHEDULER = {
  "_class_name": "PNDMScheduler",
  "clip_sample": False,
  "set_alpha_to_one": False,
  "skip_prk_steps": True,
  "steps_offset": 1,
}
_INDEX = {
  "_class_name": "StableDiffusionPipeline",
  "feature_extractor": [None, None],
  "requires_safety_checker": False,
  "safety_checker": [None, None],
  "scheduler": ["diffusers", "PNDMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"],
}


def load(path: str | Path, networks: Networks = SD1) -> Params:
  """The parameters of a model from diffusers' folders.

  Weights are read from safetensors, or else from .bin files, in float32, or
  else in half precision.

  Args:
    path: the folder of the model.
    networks: what it holds.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file is damaged, or a configuration or the tensors are not
      those of the networks, or of another noise schedule.
  """
  path = Path(path)
  unet = path / "unet" / "config.json"
  explicit = unet_config(networks.unet)
  ignored = ("sample_size",)
  check_config(unet, read_config(unet), explicit, _UNET_DEFAULTS, ignored)
  _check_first_stage(path / "vae" / "config.json", networks.first_stage)
  _check_text_encoder(
    path / "text_encoder" / "config.json", networks.text_encoder
  )
  scheduler = path / "scheduler" / "scheduler_config.json"
  config = read_config(scheduler)
  known = _SCHEDULE | _SCHEDULE_DEFAULTS
  ours = {name: value for name, value in config.items() if name in known}
  check_config(scheduler, ours, _SCHEDULE, _SCHEDULE_DEFAULTS)
  return Params(
    ldm_unet.from_diffusers(_read(path / "unet", _WEIGHTS), networks.unet),
    first_stage.from_diffusers(
      _read(path / "vae", _WEIGHTS), networks.first_stage
    ),
    clip.from_transformers(
      _read(path / "text_encoder", *_TEXT_WEIGHTS), networks.text_encoder
    ),
  )


def load_tokenizer(path: str | Path) -> TextTokenizer:
  """The tokenizer of a model's folder; raises like `clip_tokenizer_of`."""
  return clip_tokenizer_of(Path(path) / "tokenizer")


def save(
  path: str | Path,
  params: Params,
  networks: Networks = SD1,
  tokenizer: str | Path | None = None,
) -> None:
  """Writes a folder that `StableDiffusionPipeline.from_pretrained` loads.

  Args:
    path: the folder, made if need be.
    params: of the networks.
    networks: the networks.
    tokenizer: a folder with vocab.json and merges.txt, or tokenizer.json,
      which are copied; without it the pipeline needs one from elsewhere.

  Raises:
    FileNotFoundError: if the folder has neither.
  """
  path = Path(path)
  unet = _made(path / "unet")
  config = {"_class_name": "UNet2DConditionModel", "sample_size": 64}
  config |= unet_config(networks.unet) | _UNET_DEFAULTS
  write_config(unet / "config.json", config)
  state = ldm_unet.to_diffusers(params.unet, networks.unet)
  write_safetensors(unet / f"{_WEIGHTS}.safetensors", state)
  first_stage_folders.save(
    path / "vae", params.first_stage, networks.first_stage, SCALE_FACTOR
  )
  clip.save(path / "text_encoder", params.text_encoder, networks.text_encoder)
  scheduler = _made(path / "scheduler") / "scheduler_config.json"
  write_config(scheduler, _SCHEDULE | _SCHEDULE_DEFAULTS | _SCHEDULER)
  if tokenizer is not None:
    files = clip_files(tokenizer)
    folder = _made(path / "tokenizer")
    for file in files:
      shutil.copyfile(file, folder / file.name)
    write_config(
      folder / "tokenizer_config.json",
      {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77},
    )
  write_config(path / "model_index.json", _INDEX)


def unet_config(unet: UNet) -> dict[str, Any]:
  """The options of `UNet2DConditionModel` that tell U-Nets apart.

  Raises:
    ValueError: if diffusers' network has no such variant.
  """
  options = ("num_head_channels", "num_classes", "transformer_depth")
  got = {name: getattr(unet, name) for name in options}
  if got != dict.fromkeys(options) | {"transformer_depth": 1}:
    raise ValueError(
      "diffusers' Stable Diffusion 1 has a number of heads, no classes and "
      f"transformers of one block, got {got}."
    )
  attention = [
    "CrossAttn" if unet.has_attention(i, 0) else ""
    for i in range(len(unet.channel_mult))
  ]
  return {
    "in_channels": unet.out_channels + unet.concat_channels,
    "out_channels": unet.out_channels,
    "block_out_channels": [
      int(unet.channels * mult) for mult in unet.channel_mult
    ],
    "layers_per_block": unet.num_res_blocks,
    "down_block_types": [f"{kind}DownBlock2D" for kind in attention],
    "up_block_types": [f"{kind}UpBlock2D" for kind in attention[::-1]],
    "cross_attention_dim": unet.context_dim,
    # So misnamed in diffusers.
    "attention_head_dim": unet.num_heads,
  }


def _check_first_stage(path: Path, wanted: AutoencoderKL) -> None:
  network, scale = first_stage_folders.configured(path)
  # Without attention outside the middle, the resolution has no meaning.
  same = {f: getattr(wanted, f) for f in ("resolution", "dtype", "remat")}
  if network.clone(**same) != wanted:
    raise ValueError(f"{path} describes {network}, but {wanted} is wanted.")
  if scale != SCALE_FACTOR:
    raise ValueError(
      f"{path} has scaling_factor {scale}, but {SCALE_FACTOR} is wanted."
    )


def _check_text_encoder(path: Path, wanted: ClipText) -> None:
  network = clip.configured(path)
  same = {f: getattr(wanted, f) for f in ("dtype", "remat")}
  if network.clone(**same) != wanted:
    raise ValueError(f"{path} describes {network}, but {wanted} is wanted.")


def _read(folder: Path, *stems: str) -> State:
  """The tensors of the first of a folder's weight files."""
  endings = ("safetensors", "bin", "fp16.safetensors", "fp16.bin")
  paths = [folder / f"{stem}.{ending}" for ending in endings for stem in stems]
  found = [path for path in paths if path.exists()]
  if not found:
    raise FileNotFoundError(f"There is no checkpoint file {paths[0]}.")
  return read_state(found[0])


def _made(folder: Path) -> Path:
  folder.mkdir(parents=True, exist_ok=True)
  return folder
