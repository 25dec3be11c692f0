"""Diffusion models of all experiments as one thing, to sample and to judge."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jaxgen.diffusion as jd
from jaxgen import data, training
from jaxgen.types import Array, PyTree

CROPS = {"center": data.center_crop_resize, "celeba": data.celeba_crop}


class Model(NamedTuple):
  """A trained or published model.

  Attributes:
    config: of its experiment; has name, dataset, split, test_split,
      image_size, image_channels, crop, T and data_dir.
    process: the forward process.
    params: the network's (averaged) parameters.
    denoiser: (params, labels `[B]` or None) -> its denoiser, not clipped.
    variance: of the ancestral step, where none is learned.
    num_classes: labels that the network is told; 0 for none.
  """

  config: Any
  process: Any
  params: PyTree
  denoiser: Callable[[PyTree, Array | None], jd.Denoiser]
  variance: float
  num_classes: int = 0


def load(weights: str) -> Model:
  """A model from a workdir of some experiment's training, or published weights.

  Args:
    weights: a workdir; a file or directory in a layout that
      `jaxgen.convert.ddpm` reads; a file of OpenAI's, under its own name; or
      NAME:PATH of a score SDE or NCSN, which checkpoints do not name.

  Raises:
    FileNotFoundError: there is neither.
  """
  from jaxgen.convert import openai

  path = Path(weights)
  named = weights.partition(":")[0].partition("/")[0]
  if (path / "checkpoints").is_dir():
    saved = training.restore_experiment(path / "checkpoints")
    name = saved["experiment"]
  elif ":" in weights and named in ("ve", "vp", "subvp", "ncsn", "ncsnv2"):
    name = "ncsn" if named.startswith("ncsn") else "score_sde"
  else:
    name = "iddpm" if path.name in openai.MARCH_2021 else "ddpm"
  return importlib.import_module(f"experiments.{name}.model").load_model(
    weights
  )
