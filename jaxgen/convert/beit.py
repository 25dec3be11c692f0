"""BEiT's networks: checkpoint <-> parameters.

The layouts are that of the released files (microsoft/unilm, beit and beit2) and
that of transformers' models, which the hub holds.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.positions import resize_bias_table, resize_positions
from jaxgen.convert.state import ParamPath, State, fill, to_torch
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.beit import (
  Beit,
  Classifier,
  MaskedImageModel,
  PatchAggregationModel,
)
from jaxgen.types import PyTree

Network = MaskedImageModel | PatchAggregationModel | Classifier

_TABLE = "relative_position_bias_table"
_MODULES = {
  "patch_embed": "patch_embed.proj",
  "relative_bias": "rel_pos_bias",
  "aggregation_norm": "cls_pt_norm",
  "aggregation_lm_head": "cls_pt_lm_head",
}
# BEiT v2's aggregation has blocks of its own, numbered from 0.
_BLOCKS = {"block": "blocks", "aggregation": "cls_pt_layers"}
_LAYERS = {
  ("attn", "qkv"): "attn.qkv.weight",
  ("attn", "q_bias"): "attn.q_bias",
  ("attn", "v_bias"): "attn.v_bias",
  ("relative_bias", "table"): f"attn.{_TABLE}",
}
_PREFIXES = {"proj_out": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_LEAVES = {"kernel": "weight", "scale": "weight", "table": _TABLE}

# (transformers' name, original name) of a block's tensors, and of the others;
# or what the names start with.
_IN_BLOCK = (
  ("attention.attention.relative_position_bias.relative", "attn.relative"),
  ("attention.attention.query.bias", "attn.q_bias"),
  ("attention.attention.value.bias", "attn.v_bias"),
  ("attention.output.dense.", "attn.proj."),
  ("layernorm_before.", "norm1."),
  ("layernorm_after.", "norm2."),
  ("intermediate.dense.", "mlp.fc1."),
  ("output.dense.", "mlp.fc2."),
  ("lambda_", "gamma_"),
)
_OUTSIDE = (
  ("beit.embeddings.cls_token", "cls_token"),
  ("beit.embeddings.mask_token", "mask_token"),
  ("beit.embeddings.position_embeddings", "pos_embed"),
  ("beit.embeddings.patch_embeddings.projection.", "patch_embed.proj."),
  ("beit.encoder.relative_position_bias.", "rel_pos_bias."),
  ("beit.pooler.layernorm.", "fc_norm."),
  ("layernorm.", "norm."),
  ("classifier.", "head."),
)
_BLOCK = ("beit.encoder.layer.", "blocks.")
_QKV = ("query", "key", "value")
_QKV_NAME = (
  r"beit\.encoder\.layer\.(\d+)\.attention\.attention\."
  r"(query|key|value)\.weight$"
)


def load(path: str | Path, network: Network, image_size: int = 224) -> PyTree:
  """Parameters from a released .pth file, or a safetensors file of the hub.

  Args:
    path: the file.
    network: what it holds.
    image_size: of the images that it was trained on.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged or does not hold this network.
  """
  state = read_state(path)
  if any(name.startswith("beit.") for name in state):
    return from_transformers(state, network, image_size)
  return from_original(state, network, image_size)


def from_original(
  state: State, network: Network, image_size: int = 224
) -> PyTree:
  """Parameters from the tensors of a released file.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape. The
      indices of relative positions, which follow from the image's size, are
      not read.
  """
  state = without_indices(state)
  return fill(_template(network, image_size), original_name, state)


def without_indices(state: State) -> dict[str, np.ndarray]:
  """The state as `fill` takes it: no indices, tables the other way round."""
  return {
    name: tensor.T if name.endswith(_TABLE) else tensor
    for name, tensor in state.items()
    if not name.endswith("relative_position_index")
  }


def to_original(params: PyTree) -> dict[str, np.ndarray]:
  """The tensors of a released file; inverse of `from_original`."""
  flat = flatten_dict(params)
  return {original_name(path): to_tensor(path, x) for path, x in flat.items()}


def to_tensor(path: ParamPath, leaf: np.ndarray) -> np.ndarray:
  """A parameter in PyTorch's layout."""
  # Tables and the vectors of tokens, [1, 1, C], are as they are.
  as_is = path[-1] == "table" or np.ndim(leaf) == 3
  return np.asarray(leaf) if as_is else to_torch(leaf)


def from_transformers(
  state: State, network: Network, image_size: int = 224
) -> PyTree:
  """Parameters from the tensors of transformers' file.

  `BeitForMaskedImageModeling` or `BeitForImageClassification`. Their layer
  normalisations must have epsilon 1e-6, which transformers' default is not.

  Raises:
    ValueError: as `from_original`.
  """
  return from_original(original_layout(state), network, image_size)


def to_transformers(params: PyTree) -> dict[str, np.ndarray]:
  """The tensors of transformers' file; inverse of `from_transformers`.

  Raises:
    ValueError: if the parameters are of a `PatchAggregationModel`.
  """
  return transformers_layout(to_original(params))


def original_layout(state: State) -> dict[str, np.ndarray]:
  """Tensors of transformers' layout in the original; others are kept.

  Raises:
    ValueError: if a block lacks one of q, k and v.
  """
  original: dict[str, np.ndarray] = {}
  joined: dict[str, dict[str, np.ndarray]] = {}
  for name, tensor in state.items():
    match = re.match(_QKV_NAME, name)
    if match:
      joined.setdefault(match[1], {})[match[2]] = tensor
    else:
      original[_renamed(name, 0)] = tensor
  for number, parts in joined.items():
    name = f"blocks.{number}.attn.qkv.weight"
    lacking = [part for part in _QKV if part not in parts]
    if lacking:
      raise ValueError(f"The checkpoint has no {lacking[0]} for {name}.")
    original[name] = np.concatenate([parts[part] for part in _QKV])
  return original


def transformers_layout(state: State) -> dict[str, np.ndarray]:
  """The inverse of `original_layout`.

  Raises:
    ValueError: if the state has BEiT v2's patch aggregation.
  """
  if any(name.startswith("cls_pt_") for name in state):
    raise ValueError(
      "transformers has no patch aggregation: give it the parameters of the "
      "backbone, norm and lm_head"
    )
  renamed: dict[str, np.ndarray] = {}
  for name, tensor in state.items():
    if name.endswith("attn.qkv.weight"):
      prefix = f"{_BLOCK[0]}{name.split('.')[1]}.attention.attention."
      for part, rows in zip(_QKV, np.split(tensor, 3), strict=True):
        renamed[f"{prefix}{part}.weight"] = rows
    else:
      renamed[_renamed(name, 1)] = tensor
  return renamed


def adapt_backbone(
  params: PyTree, old: Beit, new: Beit, old_size: int, new_size: int
) -> PyTree:
  """A pre-trained backbone's parameters for another use or image size.

  Shared biases become a copy for every block where `new` has them so (Bao et
  al. 2022, released code); bias tables and absolute positions are resized; a
  mask token that `new` lacks is dropped.

  Args:
    params: of `old`.
    old: the backbone that was trained.
    new: the backbone wanted, of the same sizes.
    old_size: height and width of the images of `old`.
    new_size: of the images of `new`.

  Raises:
    ValueError: `new` needs positions that `old` does not have.
  """
  fields = ("patch_size", "width", "num_layers", "num_heads", "mlp_width")
  for name in (*fields, "absolute_positions"):
    if getattr(old, name) != getattr(new, name):
      raise ValueError(
        f"adapt_backbone needs backbones of one {name}, got "
        f"{getattr(old, name)} and {getattr(new, name)}"
      )
  kinds = (old.relative_positions, new.relative_positions)
  if kinds[0] != kinds[1] and kinds != ("shared", "per_block"):
    raise ValueError(
      f"adapt_backbone cannot make relative_positions {kinds[1]!r} of "
      f"{kinds[0]!r}"
    )
  before, after = (size // old.patch_size for size in (old_size, new_size))
  resized = jax.tree_util.tree_map_with_path(
    lambda path, leaf: _resize(path[-1].key, leaf, before, after), params
  )
  if not new.mask_token:
    resized.pop("mask_token", None)
  if kinds == ("shared", "per_block"):
    shared = resized.pop("relative_bias")
    for i in range(new.num_layers):
      resized[f"block_{i}"]["relative_bias"] = dict(shared)
  return resized


def _resize(name: str, leaf: np.ndarray, before: int, after: int) -> jax.Array:
  if name == "table":
    return jnp.asarray(resize_bias_table(np.asarray(leaf), before, after))
  if name == "pos_embed":
    old, new = (before, before), (after, after)
    return jnp.asarray(resize_positions(np.asarray(leaf), old, new))
  return jnp.asarray(leaf)


def original_name(path: ParamPath) -> str:
  """The name of a parameter in the released files."""
  if path[0] == "backbone":
    path = path[1:]
  module, *rest = path
  if not rest:
    return module
  kind, _, number = module.partition("_")
  if kind not in _BLOCKS or not number.isdecimal():
    return f"{_MODULES.get(module, module)}.{_LEAVES.get(rest[-1], rest[-1])}"
  prefix = f"{_BLOCKS[kind]}.{number}."
  if len(rest) == 1:
    return prefix + rest[0]
  if tuple(rest) in _LAYERS:
    return prefix + _LAYERS[rest[0], rest[1]]
  layer = _PREFIXES.get(rest[-2], rest[-2])
  return f"{prefix}{layer}.{_LEAVES.get(rest[-1], rest[-1])}"


def _renamed(name: str, layout: int) -> str:
  """A name of layout 0, transformers', or 1, the original, in the other.

  An unknown name stays as it is.
  """
  block = re.match(re.escape(_BLOCK[layout]) + r"(\d+)\.(.*)$", name)
  head, rest = (
    (f"{_BLOCK[1 - layout]}{block[1]}.", block[2]) if block else ("", name)
  )
  for pair in _IN_BLOCK if block else _OUTSIDE:
    if rest.startswith(pair[layout]):
      return head + pair[1 - layout] + rest.removeprefix(pair[layout])
  return name


def _template(network: Network, image_size: int) -> PyTree:
  """The shapes of the parameters."""
  x = jnp.zeros((1, image_size, image_size, 3))
  return jax.eval_shape(network.init, jax.random.key(0), x)["params"]
