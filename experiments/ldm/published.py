"""The released models' files: whole models -> parameters."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgen.diffusion as jd
from experiments.ldm.config import SEQUENCES, Config
from jaxgen.convert import first_stage, ldm_bert, ldm_unet
from jaxgen.convert.state import State
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.autoencoder import FirstStage
from jaxgen.nn.ldm_unet import UNet
from jaxgen.types import PyTree

CONDITIONER = "cond_stage_model."
_NETWORKS = (
  ldm_unet.PREFIX,
  ldm_unet.EMA_PREFIX,
  first_stage.PREFIX,
  CONDITIONER,
)


def load(
  path: str | Path,
  config: Config,
  process: jd.DiscreteProcess,
  unet: UNet,
  conditioner: Any,
  autoencoder: FirstStage,
) -> PyTree:
  """The parameters of a released file.

  The U-Net's averaged ones where there are any. Inpainting's file holds its
  first stage a second time as what encodes the condition, which is left out.

  Args:
    path: of the file.
    config: of the model.
    process: its forward process, which the file must agree with.
    unet: the U-Net.
    conditioner: what encodes the condition, or None.
    autoencoder: the first stage.

  Returns:
    Those of `unet`, `conditioner` and `first_stage`, and the `scale` of the
    latents.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a tensor is missing, unused or of the wrong shape, or the file
      is of another noise schedule.
  """
  state = read_state(path)
  _check_process(state, process, config.name)
  averaged = any(
    name.startswith(f"{ldm_unet.EMA_PREFIX}diffusion_model") for name in state
  )
  scale = state.get("scale_factor", np.float32(config.latent_scale))
  return {
    "unet": ldm_unet.from_original(ldm_unet.unet_state(state, averaged), unet),
    "conditioner": _conditioner(state, config, conditioner),
    "first_stage": first_stage.from_original(
      _under(first_stage.PREFIX, state), autoencoder
    ),
    "scale": jnp.asarray(scale, jnp.float32).reshape(()),
  }


def _conditioner(state: State, config: Config, conditioner: Any) -> PyTree:
  told = _under(CONDITIONER, state)
  if config.condition in SEQUENCES:
    return ldm_bert.from_original(told, conditioner)
  bare = {name.removeprefix(CONDITIONER): x for name, x in told.items()}
  if config.condition == "class":
    return ldm_unet.embedder_from_original(bare, conditioner)
  if config.condition == "segmentation":
    return ldm_unet.rescaler_from_original(bare, conditioner)
  if bare and config.condition != "mask":
    raise ValueError(
      f"The checkpoint has tensors under {CONDITIONER}, which {config.name} "
      "has not."
    )
  return {}


def _under(prefix: str, state: State) -> dict[str, np.ndarray]:
  return {k: x for k, x in state.items() if k.startswith(prefix)}


def _check_process(
  state: State, process: jd.DiscreteProcess, name: str
) -> None:
  """Raises where a file is of another noise schedule, or of no such model."""
  found = state.get("alphas_cumprod")
  wanted = np.asarray(process.alpha(jnp.arange(1, process.T + 1))) ** 2
  if found is not None and (
    found.shape != wanted.shape or not np.allclose(found, wanted, rtol=2e-3)
  ):
    raise ValueError(
      f"The checkpoint's noise schedule, alphas_cumprod, is not {name}'s."
    )
  unknown = [k for k in state if "." in k and not k.startswith(_NETWORKS)]
  if unknown:
    raise ValueError(
      f"The checkpoint has {len(unknown)} tensors that {name} has not, first "
      f"{unknown[0]}."
    )
