"""CLIP's vision transformer: checkpoint <-> parameters of `ClipVision`.

The layouts are transformers' (`CLIPModel`, `CLIPVisionModelWithProjection`) and
OpenAI's own. What belongs to CLIP's texts is left out. OpenAI's files are
TorchScript programs; their tensors are read, and no code of theirs runs.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.clip import (
  CONFIG_FILE,
  TORCH_FILE,
  WEIGHTS_FILE,
  tensor_name,
)
from jaxgen.convert.configs import read_config
from jaxgen.convert.positions import side_of
from jaxgen.convert.state import State, below, fill, to_torch
from jaxgen.convert.torch_files import is_script, read_script_state, read_state
from jaxgen.nn.clip_vision import ClipVision
from jaxgen.types import PyTree

_VISION = "vision_model."
_PROJECTION = "visual_projection.weight"
_PATCHES = _VISION + "embeddings.patch_embedding.weight"
_POSITIONS = _VISION + "embeddings.position_embedding.weight"
_POSITION_IDS = _VISION + "embeddings.position_ids"
_MODULES = {
  "class_embedding": "embeddings.class_embedding",
  "position_embedding": "embeddings.position_embedding.weight",
  "patch_embedding": "embeddings.patch_embedding",
  "norm_in": "pre_layrnorm",
  "norm_out": "post_layernorm",
}
_TEXT = ("text_model.", "text_projection.", "logit_scale")

# (OpenAI's name, transformers') of a block's tensors, and of the others; or
# what the names start with.
_IN_BLOCK = (
  ("attn.out_proj.", "self_attn.out_proj."),
  ("ln_1.", "layer_norm1."),
  ("ln_2.", "layer_norm2."),
  ("mlp.c_fc.", "mlp.fc1."),
  ("mlp.c_proj.", "mlp.fc2."),
)
_OUTSIDE = (
  ("class_embedding", _VISION + "embeddings.class_embedding"),
  ("positional_embedding", _POSITIONS),
  ("conv1.weight", _PATCHES),
  ("ln_pre.", _VISION + "pre_layrnorm."),
  ("ln_post.", _VISION + "post_layernorm."),
)
_BLOCKS = ("transformer.resblocks.", _VISION + "encoder.layers.")
_PARTS = ("q", "k", "v")

# config.json -> field.
_FIELDS = {
  "patch_size": "patch_size",
  "hidden_size": "width",
  "num_hidden_layers": "num_layers",
  "num_attention_heads": "num_heads",
  "intermediate_size": "mlp_width",
  "hidden_act": "activation",
}
_DEFAULTS = {  # transformers leaves out what is as in ViT-B/32
  "patch_size": 32,
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "hidden_act": "quick_gelu",
}


def load(path: str | Path) -> tuple[ClipVision, PyTree]:
  """A network and its parameters.

  Args:
    path: a file as OpenAI published it, or of its state dictionary; or a
      directory with transformers' config.json and model.safetensors or
      pytorch_model.bin.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, or holds no vision transformer of CLIP.
  """
  path = Path(path)
  if path.is_dir():
    network = configured(path / CONFIG_FILE)
    whole = path / WEIGHTS_FILE
    file = whole if whole.exists() else path / TORCH_FILE
    if not file.exists():
      raise FileNotFoundError(f"There is no checkpoint file {whole}.")
    return network, from_transformers(read_state(file), network)
  scripted = path.is_file() and is_script(path)
  state = read_script_state(path) if scripted else read_state(path)
  network = described(state)
  return network, from_original(state, network)


def configured(path: str | Path) -> ClipVision:
  """The network that a config.json of transformers describes.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged or describes another network.
  """
  config = read_config(path)
  vision = config.get("vision_config", config)
  if not isinstance(vision, dict):
    raise ValueError(f"{path} has a vision_config that is no dictionary.")
  eps = vision.get("layer_norm_eps", 1e-5)
  if eps != 1e-5:
    raise ValueError(
      f"{path} has layer_norm_eps {eps!r}, but CLIP's vision transformer has "
      "1e-05."
    )
  vision = _DEFAULTS | vision
  fields: dict[str, Any] = {ours: vision[k] for k, ours in _FIELDS.items()}
  projection = config.get("projection_dim", vision.get("projection_dim", 512))
  return ClipVision(**fields, projection=projection)


def described(state: State) -> ClipVision:
  """The network whose tensors OpenAI's state dictionary holds.

  Raises:
    ValueError: if it holds no vision transformer; some models of CLIP are
      convolutional.
  """
  state = below("visual.", state)
  none = np.zeros(())
  patches, proj = state.get("conv1.weight", none), state.get("proj", none)
  if patches.ndim != 4 or proj.ndim != 2:
    raise ValueError(
      "The checkpoint has no visual.proj: not a vision transformer of CLIP."
    )
  width, _, patch_size, _ = patches.shape
  layers = sum(name.endswith("attn.in_proj_weight") for name in state)
  mlp = state.get("transformer.resblocks.0.mlp.c_fc.bias")
  return ClipVision(
    patch_size=patch_size,
    width=width,
    num_layers=layers,
    num_heads=max(1, width // 64),  # in all of them
    mlp_width=4 * width if mlp is None else len(mlp),
    projection=proj.shape[1],
  )


def from_original(state: State, network: ClipVision) -> PyTree:
  """Parameters from OpenAI's tensors, those of texts being left out.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  renamed: dict[str, np.ndarray] = {}
  for name, tensor in below("visual.", state).items():
    joined = re.fullmatch(
      re.escape(_BLOCKS[0]) + r"(\d+)\.attn\.in_proj_(weight|bias)", name
    )
    if name == "proj":
      renamed[_PROJECTION] = tensor.T
    elif joined:
      for part, rows in zip(_PARTS, np.split(tensor, 3), strict=True):
        inner = f"self_attn.{part}_proj.{joined[2]}"
        renamed[f"{_BLOCKS[1]}{joined[1]}.{inner}"] = rows
    else:
      renamed[_renamed(name, 0)] = tensor
  return from_transformers(renamed, network)


def to_original(params: PyTree) -> dict[str, np.ndarray]:
  """OpenAI's tensors, "visual." before each; inverse of `from_original`."""
  original: dict[str, np.ndarray] = {}
  state = to_transformers(params)
  for name, tensor in state.items():
    split = re.fullmatch(
      re.escape(_BLOCKS[1]) + r"(\d+)\.self_attn\.[qkv]_proj\.(weight|bias)",
      name,
    )
    if name == _PROJECTION:
      original["visual.proj"] = tensor.T
    elif split:
      inner = f"{_BLOCKS[1]}{split[1]}.self_attn.{{}}_proj.{split[2]}"
      parts = [state[inner.format(part)] for part in _PARTS]
      whole = f"visual.{_BLOCKS[0]}{split[1]}.attn.in_proj_{split[2]}"
      original[whole] = np.concatenate(parts)
    else:
      original["visual." + _renamed(name, 1)] = tensor
  return original


def from_transformers(state: State, network: ClipVision) -> PyTree:
  """Parameters from the tensors of `CLIPVisionModelWithProjection`.

  Args:
    state: its tensors, or `CLIPModel`'s, those of texts being left out.
      `position_ids`, which is 0, 1, 2, ..., may be there.
    network: the network.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  state = {
    name: tensor
    for name, tensor in state.items()
    if not name.startswith(_TEXT) and name != _POSITION_IDS
  }
  if _POSITIONS not in state:
    raise ValueError(
      f"The checkpoint has no {_POSITIONS}: not CLIP's vision transformer."
    )
  side = side_of(state[_POSITIONS])
  state[_POSITIONS] = state[_POSITIONS].T  # which `fill` undoes
  return fill(_template(network, side), _name, state)


def to_transformers(params: PyTree) -> dict[str, np.ndarray]:
  """The tensors of `CLIPVisionModelWithProjection`.

  The inverse of `from_transformers`.
  """
  state = {
    _name(path): to_torch(leaf) for path, leaf in flatten_dict(params).items()
  }
  state[_POSITIONS] = state[_POSITIONS].T
  return state


def _name(path: tuple[str, ...]) -> str:
  if path == ("projection_kernel",):
    return _PROJECTION
  return _VISION + tensor_name(path, _MODULES)


def _renamed(name: str, layout: int) -> str:
  """A name of layout 0, OpenAI's, or 1, transformers', in the other.

  An unknown name stays as it is.
  """
  block = re.match(re.escape(_BLOCKS[layout]) + r"(\d+)\.(.*)$", name)
  head, rest = (
    (f"{_BLOCKS[1 - layout]}{block[1]}.", block[2]) if block else ("", name)
  )
  for pair in _IN_BLOCK if block else _OUTSIDE:
    if rest.startswith(pair[layout]):
      return head + pair[1 - layout] + rest.removeprefix(pair[layout])
  return name


def _template(network: ClipVision, side: int) -> PyTree:
  """The shapes of the parameters, for images of side x side patches."""
  size = side * network.patch_size
  x = jnp.zeros((1, size, size, 3))
  return jax.eval_shape(network.init, jax.random.key(0), x)["params"]
