"""Stable Diffusion 1's weights, wherever they were downloaded to."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxgen.convert import sd1, sd1_folder
from jaxgen.convert.configs import read_config
from jaxgen.convert.ldm_unet import PREFIX
from jaxgen.convert.torch_files import read_state
from jaxgen.data.tokenizers import TextTokenizer, clip_tokenizer_of
from jaxgen.types import PyTree

PUBLISHED = (
  "Hugging Face has them as CompVis/stable-diffusion-v1-4 (a folder) and "
  "CompVis/stable-diffusion-v-1-4-original (sd-v1-4.ckpt), and mirrors of "
  "runwayml's as stable-diffusion-v1-5/stable-diffusion-v1-5 and "
  "stable-diffusion-v1-5/stable-diffusion-inpainting"
)


class Model(NamedTuple):
  """A published or trained text-to-image model.

  Attributes:
    networks: U-Net, first stage and text encoder.
    params: theirs.
    tokenizer: of the prompts.
    name: of the file or folder.
    digest: see `digest`.
  """

  networks: sd1.Networks
  params: sd1.Params
  tokenizer: TextTokenizer
  name: str
  digest: str


def load(
  weights: str | Path,
  tokenizer: str | Path | None = None,
  networks: sd1.Networks = sd1.SD1,
) -> Model:
  """The model of a single file (.ckpt, .safetensors) or a folder of diffusers.

  runwayml's inpainting model, whose U-Net sees a mask and a masked image, is
  known by its first layer.

  Args:
    weights: the file or folder.
    tokenizer: a folder with vocab.json and merges.txt, or tokenizer.json; by
      default that of the folder, or the one where the file lies.
    networks: the text-to-image model's; the inpainting model's differ in their
      `concat_channels`.

  Raises:
    FileNotFoundError: there are no such weights or tokenizer; says where they
      are published.
    ValueError: they are not what they should be.
  """
  path = Path(weights)
  if not path.exists():
    raise FileNotFoundError(f"there are no weights {path}: {PUBLISHED}")
  if path.is_dir():
    config = read_config(path / "unet" / "config.json")
    networks = _seeing(networks, config.get("in_channels", 4))
    params = sd1_folder.load(path, networks)
  else:
    state = read_state(path)
    first = state.get(f"{PREFIX}input_blocks.0.0.weight", np.zeros((0, 4)))
    networks = _seeing(networks, first.shape[1])
    params = sd1.from_original(state, networks)
  beside = path / "tokenizer" if path.is_dir() else path.parent
  folder = Path(tokenizer or beside)
  text = clip_tokenizer_of(folder)
  known = networks.text_encoder.vocab_size
  if text.vocab_size != known:
    raise ValueError(
      f"the tokenizer of {folder} has {text.vocab_size} tokens, the text "
      f"encoder of {path} knows {known}"
    )
  return Model(networks, params, text, path.name, digest(params))


def digest(params: PyTree) -> str:
  """The first 16 digits of the SHA-256 of all parameters.

  It does not depend on the layout of the file that they were read from.
  """
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.ascontiguousarray(leaf).data)
  return found.hexdigest()[:16]


def _seeing(networks: sd1.Networks, in_channels: int) -> sd1.Networks:
  unet = networks.unet
  more = max(in_channels - unet.out_channels, 0)
  return networks._replace(unet=unet.clone(concat_channels=more))
