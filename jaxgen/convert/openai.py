"""Improved DDPM's and ADM's networks: checkpoint <-> parameters.

The files are those that openai/improved-diffusion and openai/guided-diffusion
released and that their training scripts write: plain state dictionaries.
"""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.state import ParamPath, State, fill, to_tensor
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.openai_classifier import CLASSIFIERS, Classifier
from jaxgen.nn.openai_unet import (
  ADM_NETWORKS,
  IDDPM_NETWORKS,
  HalfUNet,
  UNet,
)
from jaxgen.types import PyTree

Network = UNet | Classifier

# The released files: those of march-2021 are improved-diffusion's, those of
# jul-2021 guided-diffusion's.
MARCH_2021: dict[str, Network] = {
  "imagenet64_uncond_100M_1500K.pt": IDDPM_NETWORKS["imagenet64"],
  "imagenet64_uncond_vlb_100M_1500K.pt": IDDPM_NETWORKS["imagenet64"],
  "imagenet64_cond_270M_250K.pt": IDDPM_NETWORKS["imagenet64_cond"],
  "cifar10_uncond_50M_500K.pt": IDDPM_NETWORKS["cifar10"],
  "cifar10_uncond_vlb_50M_500K.pt": IDDPM_NETWORKS["cifar10"],
  "upsample_cond_500K.pt": IDDPM_NETWORKS["upsample_64_256"],
  "lsun_uncond_100M_1200K_bs128.pt": IDDPM_NETWORKS["lsun_bedroom"],
  "lsun_uncond_100M_2400K_bs64.pt": IDDPM_NETWORKS["lsun_bedroom"],
}
JUL_2021: dict[str, Network] = {
  "64x64_diffusion.pt": ADM_NETWORKS["imagenet64"],
  "128x128_diffusion.pt": ADM_NETWORKS["imagenet128"],
  "256x256_diffusion.pt": ADM_NETWORKS["imagenet256"],
  "256x256_diffusion_uncond.pt": ADM_NETWORKS["imagenet256_uncond"],
  "512x512_diffusion.pt": ADM_NETWORKS["imagenet512"],
  "64_256_upsampler.pt": ADM_NETWORKS["upsample_64_256"],
  "128_512_upsampler.pt": ADM_NETWORKS["upsample_128_512"],
  "lsun_bedroom.pt": ADM_NETWORKS["lsun"],
  "lsun_cat.pt": ADM_NETWORKS["lsun"],
  "lsun_horse.pt": ADM_NETWORKS["lsun"],
  "lsun_horse_nodropout.pt": ADM_NETWORKS["lsun"].clone(dropout=0.0),
  "64x64_classifier.pt": CLASSIFIERS["imagenet64"],
  "128x128_classifier.pt": CLASSIFIERS["imagenet128"],
  "256x256_classifier.pt": CLASSIFIERS["imagenet256"],
  "512x512_classifier.pt": CLASSIFIERS["imagenet512"],
}

_MODULES = {
  "temb_dense0": "time_embed.0",
  "temb_dense1": "time_embed.2",
  "label_emb": "label_emb",
  "conv_in": "input_blocks.0.0",
  "mid_block_1": "middle_block.0",
  "mid_attn_1": "middle_block.1",
  "mid_block_2": "middle_block.2",
}
_UNET_OUT = {"norm_out": "out.0", "conv_out": "out.2"}
_POOLS = {
  "attention": {"norm_out": "out.0", "pool": "out.2"},
  "adaptive": {"norm_out": "out.0", "logits": "out.3"},
  "spatial": {"hidden": "out.0", "logits": "out.2"},
  "spatial_v2": {"hidden": "out.0", "norm_hidden": "out.1", "logits": "out.3"},
}
_LAYERS = {
  "norm1": "in_layers.0",
  "conv1": "in_layers.2",
  "emb_proj": "emb_layers.1",
  "norm2": "out_layers.0",
  "conv2": "out_layers.3",
  "shortcut": "skip_connection",
}
_POOL_LAYERS = {"qkv": "qkv_proj", "proj_out": "c_proj"}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}

_CONV_IN = "input_blocks.0.0.weight"
_POSITIONS = "out.2.positional_embedding"


def load(
  path: str | Path, network: Network | None = None
) -> tuple[Network, PyTree]:
  """A network and its parameters.

  Args:
    path: a .pt or a safetensors file.
    network: what the file holds; by default what was released under the
      file's name, `MARCH_2021` and `JUL_2021`. Weights do not tell the number
      of heads.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged or does not hold this network, or no
      file of this name was released.
  """
  releases = MARCH_2021 | JUL_2021
  if network is None:
    name = Path(path).with_suffix(".pt").name
    if name not in releases:
      raise ValueError(
        f"No released checkpoint is called {name}: load needs its network."
      )
    network = releases[name]
  return network, from_original(read_state(path), network)


def from_original(state: State, network: Network) -> PyTree:
  """Parameters of `network` from the tensors of the PyTorch network.

  Args:
    state: tensor name -> array, every one of which must be used.
    network: the network.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  template = _template(network, state)
  modules = set(template)
  return fill(template, lambda path: tensor_name(path, network, modules), state)


def to_original(params: PyTree, network: Network) -> dict[str, np.ndarray]:
  """The tensors of the PyTorch network; inverse of `from_original`."""
  modules = set(params)
  return {
    tensor_name(path, network, modules): to_tensor(
      path, leaf, kernel_ndim(path, network)
    )
    for path, leaf in flatten_dict(params).items()
  }


def tensor_name(path: ParamPath, network: HalfUNet, modules: set[str]) -> str:
  """The name of a parameter's tensor; `modules` are all there are."""
  module, *layers, leaf = path
  names = _POOL_LAYERS if module == "pool" else _LAYERS
  layers = [names.get(layer, layer) for layer in layers]
  if not layers and module.endswith("_downsample"):
    layers = ["op"]
  if not layers and module.endswith("_upsample"):
    layers = ["conv"]
  scope = module_name(module, network, modules)
  return ".".join([scope, *layers, LEAVES.get(leaf, leaf)])


def module_name(module: str, network: HalfUNet, modules: set[str]) -> str:
  """The scope of a module, one of `modules`.

  The original counts input_blocks from the first convolution, and
  output_blocks from the smallest level; attention and upsampling follow the
  residual block within the same one.
  """
  match = re.fullmatch(r"(down|up)_(\d+)_([a-z]+)_?(\d*)", module)
  if not match:
    out = _UNET_OUT
    if isinstance(network, Classifier):
      out = _POOLS[network.pool]
    return (_MODULES | out)[module]
  side, kind, level = match[1], match[3], int(match[2])
  block = int(match[4] or network.num_res_blocks)
  per_level = network.num_res_blocks + 1
  if side == "down":
    index = 1 + level * per_level + block
    return f"input_blocks.{index}.{int(kind == 'attn')}"
  index = (len(network.channel_mult) - 1 - level) * per_level + block
  place = int(kind == "attn")
  if kind == "upsample":
    place = 1 + (f"up_{level}_attn_{block}" in modules)
  return f"output_blocks.{index}.{place}"


def kernel_ndim(path: ParamPath, network: HalfUNet) -> int | None:
  """Axes of a kernel that PyTorch has as a convolution of size 1."""
  scope, leaf = path[-2:] if len(path) > 1 else ("", path[0])
  if leaf != "kernel":
    return None
  if scope in ("qkv", "proj_out"):
    return 3
  adaptive = isinstance(network, Classifier) and network.pool == "adaptive"
  if scope == "shortcut" or (scope == "logits" and adaptive):
    return 4
  return None


def _template(network: Network, state: State) -> PyTree:
  """The shapes of the parameters."""
  if _CONV_IN not in state:
    raise ValueError(f"The checkpoint has no {_CONV_IN}: not OpenAI's network.")
  size = _image_size(network, state)
  channels = state[_CONV_IN].shape[1]
  conditions = {}
  if isinstance(network, UNet):
    if network.num_classes is not None:
      conditions["y"] = jnp.zeros(1, jnp.int32)
    if network.super_resolution:
      channels //= 2
      conditions["low_res"] = jnp.zeros((1, size, size, channels))
  x = jnp.zeros((1, size, size, channels))
  return jax.eval_shape(
    network.init, jax.random.key(0), x, jnp.zeros(1), **conditions
  )["params"]


def _image_size(network: Network, state: State) -> int:
  """A height at which attention, and its pooling, are where the state's are."""
  per_level = network.num_res_blocks + 1
  pattern = re.compile(r"input_blocks\.(\d+)\.1\.qkv\.weight")
  levels = sorted(
    {(int(m[1]) - 1) // per_level for m in map(pattern.fullmatch, state) if m}
  )
  heights = sorted(network.attention_resolutions, reverse=True)
  sizes = {h * 2**i for h, i in zip(heights, levels, strict=False)}
  if len(levels) != len(heights) or len(sizes) > 1:
    raise ValueError(
      f"The checkpoint has attention at levels {levels}, which does not fit "
      f"the network's attention_resolutions {network.attention_resolutions}."
    )
  if sizes:
    return sizes.pop()
  pooled = state[_POSITIONS].shape[1] - 1 if _POSITIONS in state else 1
  return math.isqrt(pooled) * 2 ** (len(network.channel_mult) - 1)
