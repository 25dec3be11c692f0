"""Diffusion models of all experiments as one thing, to sample and to judge."""

import dataclasses
import importlib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jaxgen.diffusion as jd
from jaxgen import data, training
from jaxgen.diffusion.guidance import LogProb
from jaxgen.messages import reason, shown
from jaxgen.types import Array, PyTree

CROPS = {"center": data.center_crop_resize, "celeba": data.celeba_crop}


class Model(NamedTuple):
  """A trained or published model.

  Attributes:
    config: of its experiment; has name, dataset, split, test_split,
      image_size, image_channels, crop and data_dir.
    process: the forward process, as a rule a `DiscreteProcess`.
    params: the network's (averaged) parameters.
    denoiser: (params, labels `[B]` or None) -> its denoiser, not clipped; where
      there is a low_res_size, (params, labels, smaller images). Latent
      diffusion's labels may be other conditions, such as tokens `[B, N]`.
    variance: of the ancestral step, where none is learned.
    num_classes: labels that the network is told; 0 for none.
    no_label: the label, or the tokens, that stand for none, if the network
      knows them.
    low_res_size: height of the images that the network enlarges; 0 for none.
    sigma_min: the last level before 0 of Karras's times.
    log_prob: (params, labels) -> log p(labels | x_t) of a classifier, or None.
    latent_shape: of what is diffused, if that is not an image itself.
    decode: (params, latents) -> images `[B, H, W, C]`, if there are latents.
  """

  config: Any
  process: Any
  params: PyTree
  denoiser: Callable[..., jd.Denoiser]
  variance: float
  num_classes: int = 0
  no_label: Any = None
  low_res_size: int = 0
  sigma_min: float = 0.002
  log_prob: Callable[[PyTree, Array], LogProb] | None = None
  latent_shape: tuple[int, int, int] | None = None
  decode: Callable[[PyTree, Array], Array] | None = None


def load(weights: str) -> Model:
  """A model from a workdir of some experiment's training, or published weights.

  Args:
    weights: a workdir; a folder of `experiments.ldm.export`; a file or
      directory in a layout that `jaxgen.convert.ddpm` reads; a file of
      OpenAI's, under its own name; or NAME:PATH of a score SDE, NCSN or latent
      diffusion model, which checkpoints do not name.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: it is damaged, or of no experiment of ours.
  """
  from experiments.ldm import configs, files
  from jaxgen.convert import openai

  path = Path(weights)
  named = weights.partition(":")[0].partition("/")[0]
  if (path / "checkpoints").is_dir():
    name = _experiment_of(path / "checkpoints")
  elif files.is_folder(path):
    name = "ldm"
  elif ":" in weights and named in ("ve", "vp", "subvp", "ncsn", "ncsnv2"):
    name = "ncsn" if named.startswith("ncsn") else "score_sde"
  elif ":" in weights and named in configs.CONFIGS:
    name = "ldm"
  else:
    released = openai.MARCH_2021 | openai.JUL_2021
    name = "iddpm" if path.name in released else "ddpm"
  return importlib.import_module(f"experiments.{name}.model").load_model(
    weights
  )


def _experiment_of(checkpoints: Path) -> str:
  """The name of the experiment, a package here, that made checkpoints.

  A file must not choose what is imported.
  """
  name = training.restore_experiment(checkpoints).get("experiment")
  models = Path(__file__).parent.glob("*/model.py")
  if name not in [path.parent.name for path in models]:
    raise ValueError(f"{checkpoints} are of no experiment here: {shown(name)}")
  return str(name)


def restore_run(workdir: Path, kind: Callable[..., Any]) -> tuple[Any, PyTree]:
  """What an experiment's training left in its workdir.

  Args:
    workdir: of the training.
    kind: the experiment's class of configurations.

  Returns:
    The configuration and the averaged parameters.

  Raises:
    FileNotFoundError: there is no finished checkpoint.
    ValueError: it is damaged, or of another experiment.
  """
  saved = training.restore_experiment(workdir / "checkpoints")
  config = read_config(workdir, saved, kind)
  return config, training.restore_params(workdir / "checkpoints", "ema")


def read_config(
  source: Path, saved: Mapping[str, Any], kind: Callable[..., Any]
) -> Any:
  """A configuration from what was saved of it.

  Args:
    source: where it was found, for messages.
    saved: its fields, and `experiment`.
    kind: the experiment's class of configurations.

  Raises:
    ValueError: a field is missing, superfluous or of another type.
  """
  saved = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
  saved.pop("experiment", None)
  hints = typing.get_type_hints(kind)
  for name, value in saved.items():
    if not _fits(value, hints.get(name)):
      raise ValueError(f"{source} has {shown(name)[1:-1]} {shown(value)}")
  try:
    return kind(**saved)
  except TypeError as error:
    raise ValueError(
      f"{source} holds no {kind.__name__}: {reason(error)}"
    ) from error


def _fits(value: Any, hint: Any) -> bool:
  """Whether a value has the annotated type, of the simple ones."""
  if hint is float:
    return isinstance(value, int | float)
  if hint in (int, str, bool):
    return isinstance(value, hint)
  for kind, numbers in ((int, int), (float, int | float)):
    if hint == tuple[kind, ...]:  # type: ignore[valid-type]
      fits = lambda v, numbers=numbers: isinstance(v, numbers)
      return isinstance(value, tuple) and all(map(fits, value))
  if typing.get_origin(hint) is typing.Literal:
    return value in typing.get_args(hint)
  return True


def shared_fields(config: Any, module: Any) -> dict[str, Any]:
  """The fields of a configuration that a Flax module has by the same name.

  But `name`, which is the experiment's.
  """
  names = {field.name for field in dataclasses.fields(module)} - {"name"}
  return {n: getattr(config, n) for n in names if hasattr(config, n)}
