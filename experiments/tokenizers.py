"""Visual tokenizers: images to tokens of a vocabulary, and back."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxgen import training
from jaxgen.types import Array, PyTree


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
    path: a workdir of `experiments.dvae.train`; a folder with DALL-E's
      encoder.pkl and decoder.pkl; or one with a pytorch_model.bin of BEiT's
      own discrete autoencoder.

  Raises:
    FileNotFoundError: there is none of these.
    ValueError: it is the workdir of something else, or a file is damaged.
  """
  path = Path(path)
  name = "dvae"
  if (path / "checkpoints").is_dir():
    name = training.restore_experiment(path / "checkpoints")["experiment"]
  module = f"experiments.{name}.model"
  found = getattr(importlib.import_module(module), "load_tokenizer", None)
  if found is None:
    raise ValueError(f"{path} holds a run of experiments.{name}: no tokenizer")
  return found(path)
