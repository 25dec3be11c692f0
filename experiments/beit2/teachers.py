"""Whose features BEiT v2's tokenizer learns to predict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from experiments.beit import model as beit
from jaxgen.convert import clip_vision, dino
from jaxgen.convert.state import read_safetensors
from jaxgen.metrics.features import SHIPPED
from jaxgen.nn.small_cnn import SmallCNN
from jaxgen.nn.vit import layer_norm
from jaxgen.nn.vqkd import CLIP_COLOURS, IMAGENET_COLOURS, teacher_images
from jaxgen.types import Array, PyTree


class Teacher(NamedTuple):
  """A frozen network.

  Attributes:
    params: what `features` is given.
    features: (params, images `[B, H, W, C]` in [-1, 1]) -> `[B, N, T]`, a
      vector for each patch, row after row. Can be jitted.
  """

  params: PyTree
  features: Callable[[PyTree, Array], Array]


def load(name: str, size: int) -> Teacher:
  """A teacher by its name, or by where it is.

  Args:
    name: clip:PATH or dino:PATH of published weights; the name of a network
      that ships with jaxgen; or a workdir of `experiments.beit.finetune`.
    size: height and width of the tokenizer's images, which CLIP, DINO and BEiT
      must have been made for.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: no name was given, or the file holds something else.
  """
  kind, _, path = name.partition(":")
  if kind == "clip" and path:
    network, params = clip_vision.load(path)
    positions = params["position_embedding"].shape[0]
    _check_size(name, positions, network.patch_size, size)
    return _vision(network, params, CLIP_COLOURS)
  if kind == "dino" and path:
    vit, params = dino.load(path)
    positions = params["backbone"]["pos_embed"].shape[1]
    _check_size(name, positions, vit.backbone.patch_size, size)
    return _vision(vit, params, IMAGENET_COLOURS)
  if (SHIPPED / f"{name}.safetensors").is_file():
    return _shipped(name)
  if (Path(name) / "checkpoints").is_dir():
    return _beit(name, size)
  shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
  raise ValueError(
    "a teacher is clip:PATH, dino:PATH, a workdir of experiments.beit.finetune "
    f"or one of {shipped}, got {name!r}"
  )


def check(teacher: Teacher, x: Any, patches: int, channels: int) -> None:
  """Raises ValueError unless there is a vector of `channels` a patch."""
  found = jax.eval_shape(teacher.features, teacher.params, x).shape[1:]
  if found != (patches, channels):
    raise ValueError(
      f"the teacher has {found[0]} features of {found[1]} channels, the "
      f"tokenizer {patches} patches and teacher_dim = {channels}"
    )


def _vision(network: Any, params: PyTree, colours: Any) -> Teacher:
  """CLIP or DINO."""

  def features(params: PyTree, x: Array) -> Array:
    seen = teacher_images(x, colours)
    found: Any = network.apply({"params": params}, seen)
    return found.patches

  return Teacher(params, features)


def _shipped(name: str) -> Teacher:
  """The last map of a small classifier, whose patches are 4 x 4 pixels.

  It sees images at the size that it was trained with. The map is taken before
  its nonlinearity, after which all vectors point in much the same direction.
  """
  state = read_safetensors(SHIPPED / f"{name}.safetensors")
  params = unflatten_dict(
    {k: jnp.asarray(v) for k, v in state.items()}, sep="."
  )
  network = SmallCNN(params["classes"]["kernel"].shape[1])
  size = 28 if name.startswith("mnist") else 32

  def features(params: PyTree, x: Array) -> Array:
    x = jax.image.resize(x, (len(x), size, size, x.shape[-1]), "linear")
    _, kept = network.apply(
      {"params": params},
      x,
      capture_intermediates=lambda module, _: module.name == "norm_3",
      mutable=["intermediates"],
    )
    last = kept["intermediates"]["norm_3"]["__call__"][0]
    return last.reshape(len(x), -1, last.shape[-1])

  return Teacher(params, features)


def _beit(workdir: str, size: int) -> Teacher:
  """The last block's patches of a fine-tuned BEiT, normalised as their mean."""
  found = beit.load(workdir)
  if found.image_size != size or "fc_norm" not in found.head:
    raise ValueError(
      f"{workdir} must hold a fine-tuned network of images of {size} pixels "
      f"that takes the mean of its patches, got {found.image_size} pixels and "
      f"{', '.join(found.head) or 'no head'}"
    )
  kind = found.normalize or "half"

  def features(params: PyTree, x: Array) -> Array:
    x = beit.normalized(x, kind)
    h: Any = found.backbone.apply({"params": params["backbone"]}, x)
    norm: Any = layer_norm("fc_norm")
    return norm.apply({"params": params["fc_norm"]}, h[-1][:, 1:])

  params = {"backbone": found.params, "fc_norm": found.head["fc_norm"]}
  return Teacher(params, features)


def _check_size(name: str, positions: int, patch_size: int, size: int) -> None:
  own = round((positions - 1) ** 0.5) * patch_size
  if own != size:
    raise ValueError(
      f"{name} was made for images of {own} pixels, the tokenizer has {size}"
    )
