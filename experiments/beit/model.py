"""From configurations and checkpoints to networks."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.beit.config import BACKBONE, Pretrain
from experiments.beit.finetune_config import Finetune
from experiments.models import restore_run, shared_fields
from jaxgen import training
from jaxgen.convert import beit_files
from jaxgen.convert.beit import adapt_backbone
from jaxgen.nn.beit import (
  Beit,
  Classifier,
  MaskedImageModel,
  PatchAggregationModel,
)
from jaxgen.types import Array, Key, PyTree

Normalize = Literal["half", "imagenet"]
_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of values in [0, 1]
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Pretrained(NamedTuple):
  """A trained or published backbone.

  Attributes:
    backbone: the network.
    params: its parameters.
    head: the parameters of a classifier beside it, {} if it had none.
    image_size: height and width of its images.
    normalize: of its pixels; None if the file's name does not tell.
  """

  backbone: Beit
  params: PyTree
  head: PyTree
  image_size: int
  normalize: Normalize | None


def make_backbone(config: Pretrain | Finetune, **changes: Any) -> Beit:
  """The backbone of a configuration."""
  fields = shared_fields(config, Beit) | {"dtype": jnp.dtype(config.dtype)}
  return Beit(**fields | changes)


def make_mim(
  config: Pretrain, vocabulary: int
) -> MaskedImageModel | PatchAggregationModel:
  """The network of pre-training; of pixels if those are its target."""
  if config.target == "pixels":
    vocabulary = config.patch_size**2 * config.image_channels
  backbone = make_backbone(config)
  if not config.early_layer:
    return MaskedImageModel(backbone, vocabulary)
  fields = config.early_layer, config.extra_layers, config.shared_head
  return PatchAggregationModel(backbone, vocabulary, *fields)


def make_classifier(config: Finetune) -> Classifier:
  """The network of fine-tuning."""
  backbone = make_backbone(config, mask_token=False)
  return Classifier(backbone, config.num_classes, config.mean_pool)


def moments(kind: Normalize) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation, of values in [-1, 1], that pixels are given.

  "half" leaves images in [-1, 1] as they are; "imagenet" subtracts ImageNet's
  mean and divides by its standard deviation.
  """
  if kind == "half":
    return (0.0,) * 3, (1.0,) * 3
  mean = tuple(2 * m - 1 for m in _IMAGENET_MEAN)
  return mean, tuple(2 * s for s in _IMAGENET_STD)


def normalized(images: Array, kind: Normalize) -> Array:
  """Images in [-1, 1] `[B, H, W, C]` as a network takes them; see `moments`.

  Raises:
    ValueError: "imagenet" was asked of images without three colours.
  """
  if kind == "half":
    return images
  if images.shape[-1] != 3:
    raise ValueError(
      "normalize = 'imagenet' needs images of 3 channels, got "
      f"{images.shape[-1]}"
    )
  mean, std = (
    jnp.array(x, jnp.float32)[None, None, None] for x in moments(kind)
  )
  return (images - mean) / std


def load(path: str) -> Pretrained:
  """A backbone: of a workdir, or published.

  Args:
    path: a workdir of `pretrain` or `finetune`; a released .pth file, or a
      folder of the hub.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: it holds something else.
  """
  if (Path(path) / "checkpoints").is_dir():
    return _load_run(Path(path))
  network, params, size = beit_files.read(path)
  head = {}
  if isinstance(network, Classifier):
    head = {name: x for name, x in params.items() if name != "backbone"}
  normalize = normalize_of(Path(path).name)
  return Pretrained(network.backbone, params["backbone"], head, size, normalize)


def normalize_of(name: str) -> Normalize | None:
  """How a published file's images are normalised; None if no name tells.

  Pre-training on ImageNet-22k took values in [-1, 1], on ImageNet-1k the mean
  and standard deviation of ImageNet.
  """
  if "22k" in name:
    return "half"
  return "imagenet" if "pt1k" in name else None


def _load_run(workdir: Path) -> Pretrained:
  saved = training.restore_experiment(workdir / "checkpoints")["experiment"]
  config: Pretrain | Finetune
  if saved == "beit_pretrain":
    config, params = restore_run(workdir, Pretrain)
    backbone = make_backbone(config)
  elif saved == "beit_finetune":
    config, params = restore_run(workdir, Finetune)
    backbone = make_backbone(config, mask_token=False)
  else:
    raise ValueError(f"{workdir} holds {saved}, which is no training of BEiT's")
  head = {}
  if saved == "beit_finetune":
    head = {name: x for name, x in params.items() if name != "backbone"}
  size, kind = config.image_size, config.normalize
  return Pretrained(backbone, params["backbone"], head, size, kind)


def init_classifier(config: Finetune, key: Key) -> PyTree:
  """The parameters that fine-tuning starts from.

  The backbone's, and those of a classifier that `init` has; a last layer for
  another number of classes begins anew, as in the released code.

  Raises:
    ValueError: `init` does not fit the configuration.
  """
  network = make_classifier(config)
  x = jnp.zeros((1, *[config.image_size] * 2, config.image_channels))
  init = jax.jit(lambda key: network.init(key, x)["params"])
  if not config.init:
    return init(key)
  found = load(config.init)
  if found.normalize not in (None, config.normalize):
    raise ValueError(
      f"{config.init} was trained with normalize = {found.normalize!r}, got "
      f"{config.normalize!r}"
    )
  sizes = found.image_size, config.image_size
  adapted = adapt_backbone(
    found.params, found.backbone, network.backbone, *sizes
  )
  wanted = jax.eval_shape(init, key)
  differing = _differing(adapted, wanted["backbone"])
  if differing:
    raise ValueError(f"{config.init} does not fit the network: {differing}")
  params = {"backbone": adapted}
  for name, part in found.head.items():
    if name in wanted and not _differing(part, wanted[name]):
      params[name] = part
  if params.keys() != wanted.keys():
    params = init(key) | params
  # Blocks that share a table's buffer could not be donated.
  return jax.tree.map(jnp.copy, params)


def like(config: Finetune, pretrained: Pretrain) -> Finetune:
  """A fine-tuning of another pre-training's backbone and images."""
  images = ("image_size", "image_channels", "normalize")
  fields: dict[str, Any] = {
    name: getattr(pretrained, name) for name in (*images, *BACKBONE)
  }
  if fields["relative_positions"] == "shared":
    fields["relative_positions"] = "per_block"
  return dataclasses.replace(config, **fields)


def _differing(found: PyTree, wanted: PyTree) -> str:
  """A parameter that is in one tree only or of another shape; "" if none."""
  shapes = [
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): x.shape
      for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (found, wanted)
  ]
  for name in sorted(shapes[0].keys() | shapes[1].keys()):
    there, here = (of.get(name, "absent") for of in shapes)
    if there != here:
      return f"{name} is {there} there and {here} here"
  return ""
