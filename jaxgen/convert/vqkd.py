"""BEiT v2's tokenizers: released files <-> parameters of `VQKD` and codebook.

The layout is that of microsoft/unilm, beit2.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.beit import original_name, to_tensor
from jaxgen.convert.positions import side_of
from jaxgen.convert.state import ParamPath, State, fill
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.norm_ema import Codebook, waiting_codebook
from jaxgen.nn.vqkd import VQKD, PatchFeatures, plain_vit
from jaxgen.types import PyTree

_CODES = "quantize.embedding.weight"
_USAGE = "quantize.cluster_size"
_STARTED = "quantize.embedding.initted"
# Of an earlier version of the averages: in the files, but never read.
_DEAD = ("quantize.embedding.cluster_size", "quantize.embedding.embed_avg")
_TRAINING = ("loss", "teacher", "scaling")
_POSITIONS = "encoder.pos_embed"
_PATCHES = "encoder.patch_embed.proj.weight"
_FC1 = "blocks.0.mlp.fc1.weight"
_TASKS = {"encoder": "encode_task_layer", "decoder": "decode_task_layer"}
_LAYERS = {"task_in": "0", "task_out": "2"}
_LEAVES = {"kernel": "weight", "scale": "weight"}


def load(path: str | Path) -> tuple[VQKD, PyTree, Codebook]:
  """A network, its parameters and its codebook, from a released file.

  Args:
    path: such as vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7.pth.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged or does not hold such a network.
  """
  state = read_state(path)
  network = described(state)
  return network, *from_original(state, network)


def described(state: State) -> VQKD:
  """The network whose tensors a file holds.

  Heads are taken to have 64 channels, as in all that were released.

  Raises:
    ValueError: if it holds none.
  """
  parts = {}
  for part, task in _TASKS.items():
    last = f"{task}.2.weight"
    names = (f"{part}.patch_embed.proj.weight", f"{part}.{_FC1}", last)
    _check_there(state, dict(zip(names, (4, 2, 2), strict=True)))
    width, _, patch_size, _ = state[names[0]].shape
    layers = sum(
      name.startswith(f"{part}.") and name.endswith(".norm1.weight")
      for name in state
    )
    heads, mlp_width = max(1, width // 64), len(state[names[1]])
    backbone = plain_vit(width, layers, heads, mlp_width, patch_size)
    parts[part] = PatchFeatures(backbone, len(state[last]))
  return VQKD(parts["encoder"], parts["decoder"])


def from_original(state: State, network: VQKD) -> tuple[PyTree, Codebook]:
  """Parameters and codebook from the tensors of a released file.

  Those of the teacher and of the loss are left out.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  state = {
    name: tensor
    for name, tensor in state.items()
    if not name.startswith(_TRAINING) and name not in _DEAD
  }
  _check_there(state, {_CODES: 2, _POSITIONS: 3, _PATCHES: 4})
  codes = state.pop(_CODES)
  n = len(codes)
  usage = state.pop(_USAGE, np.zeros(n, np.float32))
  placed = bool(np.all(state.pop(_STARTED, np.ones(1)) != 0))
  shape = (n, network.encoder.features)
  if codes.shape != shape or usage.shape != (n,):
    raise ValueError(
      f"The checkpoint has wrong shapes: {_CODES} {codes.shape} for {shape} "
      f"and {_USAGE} {usage.shape} for {(n,)}."
    )
  side = side_of(state[_POSITIONS])
  channels = state[_PATCHES].shape[1]
  params = fill(_template(network, side, channels), _name, state)
  codebook = Codebook(
    jnp.asarray(codes), jnp.asarray(usage), jnp.asarray(placed)
  )
  return params, codebook


def to_original(params: PyTree, codebook: Codebook) -> dict[str, np.ndarray]:
  """The tensors of a released file; inverse of `from_original`.

  With the two dead ones, without which the original does not load.
  """
  flat = flatten_dict(params)
  state = {_name(path): to_tensor(path, leaf) for path, leaf in flat.items()}
  codes, usage = np.asarray(codebook.embedding), np.asarray(codebook.usage)
  state |= {
    _CODES: codes,
    _USAGE: usage,
    _STARTED: np.asarray(codebook.started, np.float32).reshape(1),
  }
  return state | {_DEAD[0]: np.zeros_like(usage), _DEAD[1]: codes}


def _check_there(state: State, wanted: dict[str, int]) -> None:
  """Raises ValueError unless tensors of so many axes are there."""
  for name, ndim in wanted.items():
    if name not in state or state[name].ndim != ndim:
      raise ValueError(
        f"The checkpoint has no {name}: not a tokenizer of BEiT v2."
      )


def _name(path: ParamPath) -> str:
  """(encoder, backbone, block_0, norm1, scale) -> encoder.blocks.0.norm1..."""
  part, module, *rest = path
  if module in _LAYERS:
    leaf = _LEAVES.get(rest[-1], rest[-1])
    return f"{_TASKS[part]}.{_LAYERS[module]}.{leaf}"
  return f"{part}.{original_name(path[1:])}"


def _template(network: VQKD, side: int, channels: int) -> PyTree:
  """The shapes of the parameters, for images of side x side patches."""
  size = side * network.encoder.backbone.patch_size
  x = jnp.zeros((1, size, size, channels))
  book = waiting_codebook(1, network.encoder.features)
  return jax.eval_shape(network.init, jax.random.key(0), x, book)["params"]
