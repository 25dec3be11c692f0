"""BEiT's published files, read for what they hold.

`jaxgen.convert.beit` fills a network that is known; here the network follows
from the tensors.
"""

import math
from pathlib import Path

from jaxgen.convert import beit
from jaxgen.convert.state import State
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.beit import (
  Beit,
  Classifier,
  MaskedImageModel,
  PatchAggregationModel,
)
from jaxgen.types import PyTree

_HEAD_WIDTH = 64  # of BEiT-B and BEiT-L; only biases tell the heads' number
# In BEiT v2's, blocks after the one whose patches are aggregated; no tensor
# tells.
_LATE_LAYERS = 3
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read(path: str | Path) -> tuple[beit.Network, PyTree, int]:
  """The network of a published checkpoint.

  Args:
    path: a released .pth file, a safetensors file, or a folder of the hub with
      one in it.

  Returns:
    The masked image model, BEiT v2's with its patch aggregation if the file has
    it, or the classifier; its parameters, and the height and width of its
    images.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged or holds no network of BEiT's.
  """
  path = Path(path)
  if path.is_dir():
    path = next((path / n for n in _WEIGHTS if (path / n).is_file()), path)
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} is no checkpoint file, nor a folder with {_WEIGHTS[0]}"
    )
  state = read_state(path)
  if any(name.startswith("beit.") for name in state):
    state = beit.original_layout(state)
  try:
    network, size = network_of(state)
  except KeyError as error:
    raise ValueError(f"{path} holds no BEiT: it has no {error}") from error
  return network, beit.from_original(state, network, size), size


def network_of(state: State) -> tuple[beit.Network, int]:
  """The network of a released file's tensors, and its images' size.

  Heads are counted by the columns of bias tables; without them by their width,
  which is 64 in all published networks.

  Raises:
    KeyError: a tensor that every BEiT has is not there.
    ValueError: neither positions nor biases tell the size of the images.
  """
  width = state["cls_token"].shape[-1]
  patch_size = state["patch_embed.proj.weight"].shape[-1]
  shared = state.get("rel_pos_bias.relative_position_bias_table")
  own = state.get("blocks.0.attn.relative_position_bias_table")
  table = own if shared is None else shared
  if table is not None:
    grid, heads = (math.isqrt(table.shape[0] - 3) + 1) // 2, table.shape[1]
  elif "pos_embed" in state:
    grid, heads = math.isqrt(state["pos_embed"].shape[1]), width // _HEAD_WIDTH
  else:
    raise ValueError("the checkpoint has neither positions nor their biases")
  backbone = Beit(
    patch_size=patch_size,
    width=width,
    num_layers=_count(state, "blocks."),
    num_heads=heads,
    mlp_width=state["blocks.0.mlp.fc1.weight"].shape[0],
    absolute_positions="pos_embed" in state,
    relative_positions=(
      "none" if table is None else "per_block" if shared is None else "shared"
    ),
    layer_scale=0.1 if "blocks.0.gamma_1" in state else None,
    mask_token="mask_token" in state,
  )
  network: beit.Network
  extra = _count(state, "cls_pt_layers.")
  if extra:
    network = PatchAggregationModel(
      backbone,
      state["lm_head.weight"].shape[0],
      max(1, backbone.num_layers - _LATE_LAYERS),
      extra,
      "cls_pt_norm.weight" not in state,
    )
  elif "lm_head.weight" in state:
    network = MaskedImageModel(backbone, state["lm_head.weight"].shape[0])
  else:
    classes = state["head.weight"].shape[0]
    network = Classifier(backbone, classes, "fc_norm.weight" in state)
  return network, grid * patch_size


def _count(state: State, prefix: str) -> int:
  """How many blocks there are below a prefix."""
  end = ".norm1.weight"
  return sum(n.startswith(prefix) and n.endswith(end) for n in state)
