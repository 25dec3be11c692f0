"""BEiT-3's released checkpoints (microsoft/unilm, beit3) <-> parameters.

The files are of the "decoupled" networks: base and large. Of the paper's giant
network nothing was released.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.convert.positions import resize_positions
from jaxgen.convert.state import ParamPath, State, fill, to_torch
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.beit3 import FIRST_POSITION, Beit3
from jaxgen.nn.beit3_tasks import (
  ImageClassifier,
  QuestionAnswering,
  Retrieval,
  VisualReasoning,
)
from jaxgen.nn.captioner import Captioner
from jaxgen.types import PyTree

Network = (
  Beit3
  | ImageClassifier
  | Retrieval
  | QuestionAnswering
  | VisualReasoning
  | Captioner
)

_TRUNK = "beit3."
_WAYS = {"vision": "A", "text": "B"}
_OUTSIDE = {
  "patch_embed": "vision_embed.proj",
  "cls_token": "vision_embed.cls_token",
  "mask_token": "vision_embed.mask_token",
  "text_embed": "text_embed.weight",
  "vision_positions": "encoder.embed_positions.A.weight",
  "text_positions": "encoder.embed_positions.B.weight",
}
_IN_ATTENTION = {
  "qkv": "qkv_proj",  # our name for q_proj, k_proj and v_proj in one
  "out": "out_proj",
  "norm": "inner_attn_ln",
}
_IN_EXPERT = {"sub_norm": "ffn_layernorm", "fc1": "fc1", "fc2": "fc2"}
_HEADS = {
  QuestionAnswering: {
    "pooler_norm": "pooler.norm",
    "pooler": "pooler.dense",
    "dense1": "head.0",
    "norm": "head.1",
    "dense2": "head.3",
  },
  VisualReasoning: {
    name: f"head.{name}" for name in ("norm1", "dense1", "norm2", "dense2")
  },
}
_LEAVES = {"kernel": "weight", "scale": "weight"}
_TABLES = (
  "text_embed.weight",
  "embed_positions.A.weight",
  "embed_positions.B.weight",
)
_QKV = r"(.*)\.(q|k|v)_proj\.(.*)$"


def load(
  path: str | Path,
  network: Network,
  image_size: int = 224,
  key: str | None = None,
) -> PyTree:
  """Parameters from a released .pth file.

  Of a file of pre-training, whose heads' names are not known, ask for the
  trunk: a `Beit3` takes what is below "beit3." and leaves the rest.

  Args:
    path: the file.
    network: what it holds.
    image_size: of the images that it was trained on.
    key: the file's entry, if it holds several ("model", "model_ema").

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged or does not hold this network.
  """
  return from_original(read_state(path, key), network, image_size)


def from_original(
  state: State, network: Network, image_size: int = 224
) -> PyTree:
  """Parameters from the tensors of a released file.

  A trunk takes what is below "beit3." alone. An `ImageClassifier` leaves out
  the text's half and the mask token, which its file has and it does not use; a
  trunk without its last normalisation leaves that out.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape, or the
      network is one that was not released.
  """
  trunk = network if isinstance(network, Beit3) else network.trunk
  if trunk.shared_attention or trunk.pair_layers or not trunk.sub_norm:
    raise ValueError(
      "The released files of BEiT-3 hold networks with sub_norm, without "
      "shared_attention and pair_layers, got another one."
    )
  wanted = lambda name: True
  if isinstance(network, Beit3):
    wanted = lambda name: name.startswith(_TRUNK)
  elif isinstance(network, ImageClassifier):
    wanted = lambda name: ".B." not in name and "text_embed" not in name
  state = {
    name: tensor.T if name.endswith(_TABLES) else tensor
    for name, tensor in state.items()
    if wanted(name)
  }
  if not trunk.output_norm:
    norms = f"{_TRUNK}encoder.layer_norm."
    state = {k: v for k, v in state.items() if not k.startswith(norms)}
  template = _template(network, image_size)
  return fill(template, lambda path: _name(path, network), _joined(state))


def to_original(params: PyTree, network: Network) -> dict[str, np.ndarray]:
  """The tensors of a released file; the inverse of `from_original`.

  Those that `from_original` leaves out are not made.
  """
  state = {}
  for path, leaf in flatten_dict(params).items():
    name = _name(path, network)
    as_is = name.endswith(_TABLES) or np.ndim(leaf) == 3
    tensor = np.asarray(leaf) if as_is else to_torch(leaf)
    if ".qkv_proj." not in name:
      state[name] = tensor
      continue
    for part, rows in zip("qkv", np.split(tensor, 3), strict=True):
      state[name.replace("qkv_proj", f"{part}_proj")] = rows
  return state


def resize(
  params: PyTree, trunk: Beit3, old_size: int, new_size: int
) -> PyTree:
  """Parameters for images of another size, the positions being bicubic.

  The class token's position is kept. Fine-tuning does so at 384, 480 and 768
  pixels.

  Args:
    params: of a trunk, or of a network that has one.
    trunk: it.
    old_size: height and width of the images that it was trained on.
    new_size: of those wanted.

  Raises:
    ValueError: the positions are not those of the old size.
  """
  before, after = (size // trunk.patch_size for size in (old_size, new_size))
  flat = flatten_dict(params)
  for path, leaf in flat.items():
    if path[-1] == "vision_positions":
      table = np.asarray(leaf)
      unused, table = np.split(table, [FIRST_POSITION])
      old, new = (before, before), (after, after)
      table = resize_positions(table[None], old, new)[0]
      flat[path] = jnp.asarray(np.concatenate([unused, table]))
  return unflatten_dict(flat)


def _joined(state: State) -> dict[str, np.ndarray]:
  """The state with each attention's q, k and v in one tensor."""
  joined: dict[str, np.ndarray] = {}
  parts: dict[str, dict[str, np.ndarray]] = {}
  for name, tensor in state.items():
    match = re.match(_QKV, name)
    if match:
      whole = f"{match[1]}.qkv_proj.{match[3]}"
      parts.setdefault(whole, {})[match[2]] = tensor
    else:
      joined[name] = tensor
  for name, found in parts.items():
    lacking = [part for part in "qkv" if part not in found]
    if lacking:
      lost = name.replace("qkv_proj", f"{lacking[0]}_proj")
      raise ValueError(f"The checkpoint has no {lost}.")
    joined[name] = np.concatenate([found[part] for part in "qkv"])
  return joined


def _name(path: ParamPath, network: Network) -> str:
  """The name of a parameter in the released files."""
  if isinstance(network, Beit3):
    return _TRUNK + _trunk_name(path)
  if path[0] == "trunk":
    return _TRUNK + _trunk_name(path[1:])
  module, *leaf = path
  module = _HEADS.get(type(network), {}).get(module, module)
  return ".".join([module, *(_LEAVES.get(part, part) for part in leaf)])


def _trunk_name(path: ParamPath) -> str:
  leaf = _LEAVES.get(path[-1], path[-1])
  if path[0] in _OUTSIDE:
    name = _OUTSIDE[path[0]]
    return name if len(path) == 1 else f"{name}.{leaf}"
  if not path[0].startswith("block_"):
    return f"encoder.layer_norm.{_WAYS[path[0].removeprefix('norm_')]}.{leaf}"
  layer = f"encoder.layers.{path[0].removeprefix('block_')}."
  if path[1] == "attn":
    kind, way = path[2].split("_")
    return f"{layer}self_attn.{_IN_ATTENTION[kind]}.{_WAYS[way]}.{leaf}"
  kind, way = path[1].split("_")
  if kind == "norm":
    return f"{layer}self_attn_layer_norm.{_WAYS[way]}.{leaf}"
  if path[2] == "norm":
    return f"{layer}final_layer_norm.{_WAYS[way]}.{leaf}"
  return f"{layer}ffn.{_WAYS[way]}.{_IN_EXPERT[path[2]]}.{leaf}"


def _template(network: Network, image_size: int) -> PyTree:
  """The shapes of the parameters."""
  x = jnp.zeros((1, image_size, image_size, 3))
  tokens = jnp.zeros((1, 2), int)
  inputs: tuple = (x, tokens)
  if isinstance(network, ImageClassifier):
    inputs = (x,)
  if isinstance(network, VisualReasoning):
    inputs = (x, x, tokens)
  return jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
