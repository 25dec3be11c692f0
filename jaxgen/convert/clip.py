"""CLIP's text transformer: checkpoint <-> parameters of `ClipText`.

The layout is that of transformers' `CLIPTextModel`, which Stable Diffusion 1's
own files contain under "cond_stage_model.transformer.".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.configs import read_config, write_config
from jaxgen.convert.state import (
  ParamPath,
  State,
  fill,
  to_torch,
  write_safetensors,
)
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.clip_text import CLIP_TEXTS, ClipText
from jaxgen.types import PyTree

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"

PUBLISHED = "text_model."
ORIGINAL = "cond_stage_model.transformer.text_model."
# Before every name: as published, of transformers since 5.0, of Stable
# Diffusion 1's files, and of files that were made from them without the class.
_PREFIXES = (PUBLISHED, "", ORIGINAL, "cond_stage_model.transformer.")

_MODULES = {
  "token_embedding": "embeddings.token_embedding",
  "position_embedding": "embeddings.position_embedding.weight",
  "norm_out": "final_layer_norm",
}
_LAYERS = {
  "norm1": "layer_norm1",
  "norm2": "layer_norm2",
  "q": "self_attn.q_proj",
  "k": "self_attn.k_proj",
  "v": "self_attn.v_proj",
  "proj_out": "self_attn.out_proj",
  "fc1": "mlp.fc1",
  "fc2": "mlp.fc2",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_TOKENS = "embeddings.token_embedding.weight"
_POSITIONS = "embeddings.position_embedding.weight"
_POSITION_IDS = "embeddings.position_ids"
_NOT_TRANSPOSED = (_TOKENS, _POSITIONS)

# config.json -> field.
_FIELDS = {
  "vocab_size": "vocab_size",
  "hidden_size": "width",
  "num_hidden_layers": "num_layers",
  "num_attention_heads": "num_heads",
  "intermediate_size": "mlp_width",
  "max_position_embeddings": "max_length",
  "hidden_act": "activation",
}
_WANTED = {"layer_norm_eps": 1e-5, "attention_dropout": 0.0}


def load(
  path: str | Path, network: ClipText | None = None
) -> tuple[ClipText, PyTree]:
  """A network and its parameters.

  Args:
    path: a safetensors or PyTorch file; or a directory with transformers'
      config.json and model.safetensors or pytorch_model.bin.
    network: what a file holds, by default ViT-L/14's. A directory says itself.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, or does not hold this network.
  """
  path = Path(path)
  if path.is_dir():
    if network is None:
      network = configured(path / CONFIG_FILE)
    whole = path / WEIGHTS_FILE
    path = whole if whole.exists() else path / TORCH_FILE
    if not path.exists():
      raise FileNotFoundError(f"There is no checkpoint file {whole}.")
  network = network or CLIP_TEXTS["vit_l_14"]
  return network, from_transformers(read_state(path), network)


def save(path: str | Path, params: PyTree, network: ClipText) -> None:
  """Writes a directory that `CLIPTextModel.from_pretrained` loads."""
  path = Path(path)
  path.mkdir(parents=True, exist_ok=True)
  write_safetensors(path / WEIGHTS_FILE, to_transformers(params))
  config = {name: getattr(network, ours) for name, ours in _FIELDS.items()}
  config |= _WANTED | {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "bos_token_id": network.end_token - 1,
    "eos_token_id": network.end_token,
    "pad_token_id": network.end_token,
  }
  write_config(path / CONFIG_FILE, config)


def configured(path: str | Path) -> ClipText:
  """The network that a config.json of transformers describes.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged or describes no text transformer of CLIP.
  """
  config = read_config(path)
  absent = [name for name in _FIELDS if name not in config]
  if absent:
    raise ValueError(f"{path} lacks {', '.join(absent)}.")
  for name, value in _WANTED.items():
    if config.get(name, value) != value:
      raise ValueError(
        f"{path} has {name} {config[name]!r}, but CLIP's text transformer has "
        f"{value!r}."
      )
  fields: dict[str, Any] = {ours: config[k] for k, ours in _FIELDS.items()}
  # Early files say 2, wrongly, for the last token of the vocabulary.
  end = config.get("eos_token_id", 2)
  return ClipText(
    **fields, end_token=fields["vocab_size"] - 1 if end == 2 else end
  )


def from_transformers(state: State, network: ClipText) -> PyTree:
  """Parameters of `network` from the tensors of `CLIPTextModel`.

  Args:
    state: tensor name -> array, every one of which must be used; all names
      with or without "text_model.", and with or without Stable Diffusion's
      "cond_stage_model.transformer." before it. `position_ids`, which is
      0, 1, 2, ..., may be missing.
    network: the network.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  prefix = next((p for p in _PREFIXES if p + _TOKENS in state), None)
  if prefix is None:
    raise ValueError(
      f"The checkpoint has no {PUBLISHED}{_TOKENS}: not CLIP's text "
      "transformer."
    )
  state = dict(state)
  ids = state.pop(prefix + _POSITION_IDS, None)
  if ids is not None and not np.array_equal(
    np.ravel(ids), np.arange(network.max_length)
  ):
    raise ValueError(
      f"The checkpoint's {prefix}{_POSITION_IDS} are not 0 to "
      f"{network.max_length - 1}."
    )
  for name in _NOT_TRANSPOSED:
    if prefix + name in state:
      state[prefix + name] = state[prefix + name].T
  return fill(
    _template(network), lambda path: prefix + tensor_name(path, _MODULES), state
  )


def to_transformers(
  params: PyTree, prefix: str = PUBLISHED
) -> dict[str, np.ndarray]:
  """The tensors of `CLIPTextModel`; inverse of `from_transformers`.

  Args:
    params: of a `ClipText`.
    prefix: before every name; `ORIGINAL` is Stable Diffusion 1's.
  """
  state = {
    prefix + tensor_name(path, _MODULES): to_torch(leaf)
    for path, leaf in flatten_dict(params).items()
  }
  for name in _NOT_TRANSPOSED:
    state[prefix + name] = state[prefix + name].T
  return state


def tensor_name(path: ParamPath, modules: Mapping[str, str]) -> str:
  """transformers' name of a parameter of one of CLIP's transformers.

  Args:
    path: of the parameter.
    modules: what is outside the blocks -> transformers' name of it.
  """
  module, *rest = path
  if not rest:
    return modules[module]
  *layers, leaf = rest
  leaf = _LEAVES.get(leaf, leaf)
  if not layers:
    return f"{modules[module]}.{leaf}"
  number = module.removeprefix("block_")
  return f"encoder.layers.{number}.{_LAYERS[layers[0]]}.{leaf}"


def _template(network: ClipText) -> PyTree:
  """The shapes of the parameters."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  return jax.eval_shape(network.init, jax.random.key(0), tokens)["params"]
