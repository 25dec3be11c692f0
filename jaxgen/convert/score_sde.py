"""Published NCSN++, DDPM++ and DDPM networks of score SDEs.

Read are the checkpoints of yang-song/score_sde_pytorch (`.pth`), those of
yang-song/score_sde (Flax msgpack) and diffusers' (`google/ncsnpp-*`), with the
old and the new names of the attention weights. PyTorch's and diffusers' layouts
are written, too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert import score_sde_names as names
from jaxgen.convert.flax_files import read_msgpack
from jaxgen.convert.noise_levels import check_sigmas
from jaxgen.convert.state import (
  ParamPath,
  State,
  fill,
  read_safetensors,
  to_torch,
)
from jaxgen.convert.torch_files import read_torch
from jaxgen.diffusion.schedules import geometric_sigmas
from jaxgen.nn.ncsnpp import NCSNpp
from jaxgen.types import PyTree


def load(
  path: str | Path, unet: NCSNpp, image_size: int, ema: bool = True
) -> PyTree:
  """Parameters of a published network.

  Args:
    path: of score_sde_pytorch's checkpoint, if it ends in `.pth`; of
      diffusers' weights, if it ends in `.safetensors` or `.bin`; otherwise of
      score_sde's Flax checkpoint.
    unet: the network, one of `jaxgen.nn.ncsnpp.NETWORKS`: checkpoints do not
      hold its configuration.
    image_size: height of the images, which says where the attention is.
    ema: the averaged parameters, which the papers' samples are drawn with;
      diffusers' files hold no others.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, or does not hold this network.
  """
  path = Path(path)
  if path.suffix == ".safetensors":
    return from_diffusers(read_safetensors(path), unet, image_size)
  if path.suffix not in (".pth", ".bin"):
    return from_flax(flax_params(read_msgpack(path), ema), unet, image_size)
  checkpoint = read_torch(path)
  if path.suffix == ".bin":
    return from_diffusers(checkpoint, unet, image_size)
  return from_pytorch(pytorch_state(checkpoint, ema), unet, image_size)


def pytorch_state(
  checkpoint: Mapping[str, Any], ema: bool = True
) -> dict[str, np.ndarray]:
  """The tensors of a network in score_sde_pytorch's checkpoint, by name.

  Args:
    checkpoint: its dictionary, which holds `model` and `ema`.
    ema: the averaged parameters. The file lists them without names, in the
      order of the model's; what has no gradient comes from the model.

  Raises:
    ValueError: if there is no model, or the averages do not fit it.
  """
  try:
    model = {
      name.removeprefix("module."): np.asarray(tensor)
      for name, tensor in checkpoint["model"].items()
    }
    shadow = checkpoint["ema"]["shadow_params"] if ema else []
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      "The checkpoint lacks the model or ema of score_sde_pytorch's."
    ) from error
  if not ema:
    return model
  trained = [
    name
    for name, tensor in model.items()
    if name != "sigmas" and not _is_fourier(name, tensor)
  ]
  shadow = [np.asarray(average) for average in shadow]
  if [model[name].shape for name in trained] != [x.shape for x in shadow]:
    raise ValueError(
      f"The checkpoint's {len(shadow)} averages do not fit its {len(trained)} "
      "trained parameters."
    )
  return model | dict(zip(trained, shadow, strict=True))


def flax_params(checkpoint: Mapping[str, Any], ema: bool = True) -> PyTree:
  """The parameters in score_sde's Flax checkpoint.

  Args:
    checkpoint: the nested dictionary of its training state.
    ema: `params_ema`; otherwise the optimizer's target.

  Raises:
    ValueError: if it does not hold them.
  """
  try:
    if ema:
      return checkpoint["params_ema"]
    return checkpoint["optimizer"]["target"]
  except (KeyError, TypeError) as error:
    wanted = "params_ema" if ema else "optimizer/target"
    raise ValueError(
      f"The checkpoint lacks the {wanted} of score_sde's."
    ) from error


def from_pytorch(state: State, unet: NCSNpp, image_size: int) -> PyTree:
  """Parameters of `unet` from score_sde_pytorch's tensors.

  Args:
    state: tensor name -> array, every one of which must be used. The noise
      levels `sigmas`, if there, must be the network's.
    unet: the network.
    image_size: height of the images, which says where the attention is.

  Raises:
    ValueError: if a tensor is missing, unused or wrong.
  """
  if "sigmas" in state:
    check_sigmas(state["sigmas"], _sigmas(unet))
  weights = {
    name: tensor.T if name.endswith(".W") else tensor
    for name, tensor in state.items()
    if name != "sigmas"
  }
  modules = names.pytorch_modules(unet, _attention_levels(unet, image_size))
  return _fill(
    unet,
    image_size,
    lambda path: names.pytorch_name(path, modules, unet),
    weights,
  )


def to_pytorch(params: PyTree, unet: NCSNpp) -> dict[str, np.ndarray]:
  """The tensors of score_sde_pytorch; inverse of `from_pytorch`."""
  levels = range(len(unet.channel_mult))
  attention = {i for i in levels if f"up_{i}_attn" in params}
  modules = names.pytorch_modules(unet, attention)
  state = {"sigmas": _sigmas(unet)}
  for path, leaf in flatten_dict(params).items():
    name = names.pytorch_name(path, modules, unet)
    if name.endswith(".W"):
      state[name] = np.asarray(leaf)
    else:
      state[name] = to_torch(leaf, 4 if _is_1x1(path) else None)
  return state


def from_flax(params: PyTree, unet: NCSNpp, image_size: int) -> PyTree:
  """Parameters of `unet` from score_sde's.

  Args:
    params: nested dictionaries, every array of which must be used.
    unet: the network.
    image_size: height of the images, which says where the attention is.

  Raises:
    ValueError: if an array is missing, unused or of the wrong shape.
  """
  state = {
    name: to_torch(leaf) for name, leaf in flatten_dict(params, sep="/").items()
  }
  model = "ncsnpp" if "AttnBlockpp_0" in params else "ddpm"
  attention = _attention_levels(unet, image_size)
  modules = names.flax_modules(unet, attention, model)
  return _fill(
    unet, image_size, lambda path: names.flax_name(path, modules, unet), state
  )


def from_diffusers(state: State, unet: NCSNpp, image_size: int) -> PyTree:
  """Parameters of `unet` from the tensors of diffusers' `UNet2DModel`.

  Args:
    state: tensor name -> array, every one of which must be used.
    unet: the network, with "output_skip" and "input_skip".
    image_size: height of the images, which says where the attention is.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape, or
      diffusers has no such network.
  """
  _check_for_diffusers(unet)
  old = any(name.endswith(".query.weight") for name in state)
  levels = len(unet.channel_mult)
  return _fill(
    unet,
    image_size,
    lambda path: names.diffusers_name(path, levels, old),
    state,
  )


def to_diffusers(params: PyTree, unet: NCSNpp) -> dict[str, np.ndarray]:
  """The tensors of diffusers' `UNet2DModel`; inverse of `from_diffusers`.

  Raises:
    ValueError: if diffusers has no such network.
  """
  _check_for_diffusers(unet)
  levels = len(unet.channel_mult)
  return {
    names.diffusers_name(path, levels): to_torch(
      leaf, 4 if _is_1x1(path) else None
    )
    for path, leaf in flatten_dict(params).items()
  }


def _check_for_diffusers(unet: NCSNpp) -> None:
  wanted = {
    "embedding": "fourier",
    "conditional": True,
    "resblock": "biggan",
    "fir_kernel": (1, 3, 3, 1),
    "skip_rescale": True,
    "progressive": "output_skip",
    "progressive_input": "input_skip",
    "progressive_combine": "sum",
  }
  for option, value in wanted.items():
    if getattr(unet, option) != value:
      raise ValueError(
        f"diffusers' NCSN++ has {option} {value!r}, got "
        f"{getattr(unet, option)!r}."
      )


def _is_fourier(name: str, tensor: np.ndarray) -> bool:
  return name.endswith(".W") and tensor.ndim == 1


def _is_1x1(path: ParamPath) -> bool:
  """Whether a dense kernel of ours is a convolution in the original."""
  is_combine = path[0].endswith("_combine")
  return path[-1] == "kernel" and (is_combine or path[-2] == "shortcut")


def _attention_levels(unet: NCSNpp, image_size: int) -> set[int]:
  return {
    i
    for i in range(len(unet.channel_mult))
    if image_size // 2**i in unet.attention_resolutions
  }


def _sigmas(unet: NCSNpp) -> np.ndarray:
  return geometric_sigmas(unet.num_scales, unet.sigma_max, unet.sigma_min)


def _fill(
  unet: NCSNpp,
  image_size: int,
  name_of: Callable[[ParamPath], str],
  state: State,
) -> PyTree:
  """Parameters of `unet` from a state in PyTorch's layout."""
  conv_in = name_of(("conv_in", "kernel"))
  if conv_in not in state or state[conv_in].ndim != 4:
    raise ValueError(
      f"The checkpoint does not fit: {conv_in}, the first convolution, is "
      "missing."
    )
  channels = state[conv_in].shape[1]
  x = jnp.zeros((1, image_size, image_size, channels))
  template = jax.eval_shape(unet.init, jax.random.key(0), x, jnp.ones(1))
  return fill(template["params"], name_of, state)
