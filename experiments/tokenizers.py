"""Visual tokenizers: images to tokens of a vocabulary, and back."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxgen import training
from jaxgen.types import Array, PyTree

# Experiments whose runs are tokenizers, and where `load_tokenizer` is.
_MODULES = {
  "dvae": "experiments.dvae.model",
  "beit2_vqkd": "experiments.beit2.vqkd_model",
}


class Tokenizer(NamedTuple):
  """A trained or published tokenizer. N tokens are a grid, row after row.

  Attributes:
    params: what `encode` and `decode` are given.
    encode: (params, images `[B, H, W, channels]` in [-1, 1]) -> tokens
      `[B, N]`, int32, N = (H / factor) (W / factor). Can be jitted.
    decode: (params, tokens `[B, N]`) -> square images in [-1, 1]; None where
      tokens are not of pixels.
    vocabulary: tokens are below it.
    factor: height and width in pixels of what a token stands for.
    channels: 1 for grey images, 3 for colour.
  """

  params: PyTree
  encode: Callable[[PyTree, Array], Array]
  decode: Callable[[PyTree, Array], Array] | None
  vocabulary: int
  factor: int
  channels: int


def load(path: str | Path) -> Tokenizer:
  """A tokenizer from where its training or its publisher left it.

  Args:
    path: a workdir of `experiments.dvae.train` or
      `experiments.beit2.train_vqkd`; a folder with DALL-E's encoder.pkl and
      decoder.pkl, or with a pytorch_model.bin of BEiT's own discrete
      autoencoder; or a released file of BEiT v2's tokenizer.

  Raises:
    FileNotFoundError: there is none of these.
    ValueError: it is the workdir of something else, or a file is damaged.
  """
  path = Path(path)
  name = "beit2_vqkd" if path.is_file() else "dvae"
  if (path / "checkpoints").is_dir():
    name = training.restore_experiment(path / "checkpoints")["experiment"]
  if name not in _MODULES:
    raise ValueError(
      f"{path} holds a run of {name}: tokenizers are runs of "
      f"{', '.join(_MODULES)}"
    )
  return importlib.import_module(_MODULES[name]).load_tokenizer(path)
