"""Stable Diffusion 1: whole checkpoints <-> the parameters of its networks.

Read and written are the single files of CompVis and runwayml (v1-1 to v1-5)
and the folders of diffusers (`jaxgen.convert.sd1_folder`).
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxgen.convert import clip, first_stage, ldm_unet
from jaxgen.convert.state import State, write_safetensors
from jaxgen.convert.torch_files import read_state
from jaxgen.diffusion.schedules import scaled_linear_betas
from jaxgen.nn.autoencoder import KL_AUTOENCODERS, AutoencoderKL
from jaxgen.nn.clip_text import CLIP_TEXTS, ClipText
from jaxgen.nn.ldm_unet import LDM_NETWORKS, UNet
from jaxgen.types import PyTree

# Of the latents: the network diffuses SCALE_FACTOR times what the encoder
# gives (Rombach et al. 2022, App. G, and the released configuration).
SCALE_FACTOR = 0.18215

Ema = Literal["prefer", "require", "ignore"]


class Networks(NamedTuple):
  """The networks of a text-to-image model."""

  unet: UNet
  first_stage: AutoencoderKL
  text_encoder: ClipText


class Params(NamedTuple):
  """The parameters of `Networks`."""

  unet: PyTree
  first_stage: PyTree
  text_encoder: PyTree


SD1 = Networks(
  LDM_NETWORKS["sd1"], KL_AUTOENCODERS["kl-f8"], CLIP_TEXTS["vit_l_14"]
)
SD1_INPAINTING = SD1._replace(unet=LDM_NETWORKS["sd1_inpainting"])

_TEXT_PREFIX = "cond_stage_model."
_EMA_COUNTERS = {"model_ema.decay", "model_ema.num_updates"}


def load(
  path: str | Path, networks: Networks = SD1, ema: Ema = "prefer"
) -> Params:
  """The parameters of a whole model.

  Args:
    path: a .ckpt or .safetensors file, in float32 or half precision, or a
      folder of diffusers.
    networks: what it holds.
    ema: of a file, whether the U-Net's averaged weights are read: "prefer"
      them where there are any, "require" them or "ignore" them. Released
      files without them have, if not said otherwise, the averages in place of
      the weights.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a file is damaged, does not hold these networks alone, or
      is of another noise schedule; or if `ema` asks for what there is not.
  """
  path = Path(path)
  if not path.is_dir():
    return from_original(read_state(path), networks, ema)
  if ema != "prefer":
    raise ValueError(
      f"A folder of diffusers does not tell weights from averages, got ema "
      f"{ema!r} and wanted 'prefer'."
    )
  from jaxgen.convert import sd1_folder  # which imports this module

  return sd1_folder.load(path, networks)


def save(path: str | Path, params: Params, networks: Networks = SD1) -> None:
  """Writes a .safetensors file in the layout of the original code."""
  if Path(path).suffix != ".safetensors":
    raise ValueError(
      f"sd1.save writes .safetensors files, and sd1_folder.save folders, got "
      f"{path}."
    )
  write_safetensors(path, to_original(params, networks))


def from_original(
  state: State, networks: Networks = SD1, ema: Ema = "prefer"
) -> Params:
  """Parameters from the tensors of a whole file.

  Beside those of the networks only these are accepted: the noise schedule's
  tables and `scale_factor`, which must be Stable Diffusion 1's; `logvar`, which
  must be zero; the counters of the averages; and what the networks' own
  readers name.

  Args:
    state: tensor name -> array.
    networks: what it holds.
    ema: see `load`.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape, a table
      differs, or there are no averages and `ema` is "require".
  """
  if ema not in ("prefer", "require", "ignore"):
    raise ValueError(
      f"ema must be 'prefer', 'require' or 'ignore', got {ema!r}."
    )
  averages = {
    name
    for name in state
    if name.startswith(ldm_unet.EMA_PREFIX) and name not in _EMA_COUNTERS
  }
  _check_names(state, averages)
  _check_tables(state)
  if ema == "require" and not averages:
    raise ValueError(
      "The checkpoint has no averaged weights under model_ema, which ema "
      "'require' wants."
    )
  use_averages = bool(averages) and ema != "ignore"
  return Params(
    ldm_unet.from_original(
      ldm_unet.unet_state(state, use_averages), networks.unet
    ),
    first_stage.from_original(
      _under(first_stage.PREFIX, state), networks.first_stage
    ),
    clip.from_transformers(_under(_TEXT_PREFIX, state), networks.text_encoder),
  )


def to_original(
  params: Params, networks: Networks = SD1
) -> dict[str, np.ndarray]:
  """The tensors of the networks, named as in whole files.

  Inverse of `from_original`; tables and averages are not written.
  """
  unet = ldm_unet.to_original(params.unet, networks.unet)
  vae = first_stage.to_original(params.first_stage, networks.first_stage)
  return {
    **{ldm_unet.PREFIX + name: x for name, x in unet.items()},
    **{first_stage.PREFIX + name: x for name, x in vae.items()},
    **clip.to_transformers(params.text_encoder, clip.ORIGINAL),
  }


def _under(prefix: str, state: State) -> dict[str, np.ndarray]:
  return {k: v for k, v in state.items() if k.startswith(prefix)}


def _check_names(state: State, averages: set[str]) -> None:
  """Raises where a tensor is of none of the networks, nor known beside them."""
  prefixes = (ldm_unet.PREFIX, first_stage.PREFIX, _TEXT_PREFIX)
  plain = [name for name in state if name.startswith(ldm_unet.PREFIX)]
  known = {*_EMA_COUNTERS, *_tables(), *map(ldm_unet.ema_name, plain)}
  unknown = sorted(
    name
    for name in state
    if not name.startswith(prefixes) and name not in known
  )
  if unknown:
    raise ValueError(
      f"The checkpoint has tensors that are not of Stable Diffusion 1, "
      f"{len(unknown)} of them, first {unknown[0]}."
    )
  lacking = [
    name
    for name, prefix in zip(Networks._fields, prefixes, strict=True)
    if not any(k.startswith(prefix) for k in state)
  ]
  if lacking:
    raise ValueError(
      f"The checkpoint has no {', '.join(lacking)}: a whole model is wanted."
    )
  if averages and len(averages) != len(plain):
    raise ValueError(
      f"The checkpoint has averages of {len(averages)} of the {len(plain)} "
      f"tensors of its U-Net."
    )


def _tables() -> dict[str, np.ndarray]:
  """What the original code derives from its betas and saves (Ho et al. 2020).

  Index 0 is the first noise level.
  """
  betas = scaled_linear_betas()
  abar = np.cumprod(1 - betas)
  before = np.append(1.0, abar[:-1])
  variance = betas * (1 - before) / (1 - abar)
  return {
    "betas": betas,
    "alphas_cumprod": abar,
    "alphas_cumprod_prev": before,
    "sqrt_alphas_cumprod": np.sqrt(abar),
    "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - abar),
    "log_one_minus_alphas_cumprod": np.log(1 - abar),
    "sqrt_recip_alphas_cumprod": np.sqrt(1 / abar),
    "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / abar - 1),
    "posterior_variance": variance,
    "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
    "posterior_mean_coef1": betas * np.sqrt(before) / (1 - abar),
    "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - abar),
    "logvar": np.zeros_like(betas),
    "scale_factor": np.array(SCALE_FACTOR),
  }


def _check_tables(state: State) -> None:
  """Raises where the model was trained with another noise schedule."""
  for name, want in _tables().items():
    if name in state and (
      state[name].shape != want.shape
      # Half precision has 11 bits.
      or not np.allclose(state[name], want, rtol=2e-3, atol=1e-6)
    ):
      raise ValueError(
        f"The checkpoint's {name} is not that of Stable Diffusion 1's noise "
        "schedule."
      )
