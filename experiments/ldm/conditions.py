"""What a latent diffusion model is told, and how it enters the U-Net.

Rombach et al. 2022, section 3.3: a class, a text or boxes become a context of
tokens, which attention sees; a segmentation, a smaller image or an image with
a hole are channels beside the latents. What one image is told is one array,
its condition:

  class         label `[B]`
  text, boxes   tokens `[B, N]`
  segmentation  classes of pixels `[B, H, W]`
  low_res       images `[B, h, w, C]` of the latents' height
  mask          images `[B, H, W, C + 1]`: `with_hole`
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ldm import first_stage
from experiments.ldm.config import SEQUENCES, Config
from jaxgen.nn.autoencoder import FirstStage
from jaxgen.nn.conditioners import ClassEmbedder, SpatialRescaler
from jaxgen.nn.ldm_bert import LdmBert
from jaxgen.types import Array, Key, PyTree

MAX_HOLES = 4


def make_conditioner(config: Config) -> Any:
  """The network that is trained to encode the condition; None if none is."""
  if config.condition == "class":
    hidden = 1 if config.cond_dropout else 0
    return ClassEmbedder(config.num_classes + hidden, config.context_dim or 1)
  if config.condition in SEQUENCES:
    return LdmBert(
      config.vocab_size,
      config.context_dim or 1,
      config.text_layers,
      max_length=config.max_length,
      dtype=jnp.dtype(config.dtype),
      remat=config.remat,
    )
  if config.condition == "segmentation":
    stages = (config.image_size // config.latent_size).bit_length() - 1
    return SpatialRescaler(stages, config.concat_channels)
  return None


def init_conditioner(config: Config, key: Key) -> PyTree:
  """Fresh parameters of the conditioner, {} if there is none."""
  conditioner, size = make_conditioner(config), config.image_size
  if conditioner is None:
    return {}
  shapes = {
    "class": (1,),
    "segmentation": (1, size, size, config.num_classes),
  }
  shape = shapes.get(config.condition, (1, max(config.max_length, 1)))
  kind = jnp.float32 if config.condition == "segmentation" else jnp.int32
  return jax.jit(conditioner.init)(key, jnp.zeros(shape, kind))["params"]


def of_batch(
  config: Config, key: Key, batch: dict[str, Array], nothing: Any
) -> Array | None:
  """The condition of a training batch.

  Args:
    config: of the model.
    key: draws whose condition is hidden, and holes.
    batch: `image`, and what the data set has of `label`, `tokens` and
      `segmentation`.
    nothing: what is told where a class or a text is hidden.
  """
  condition = config.condition
  if condition == "none":
    return None
  if condition == "class":
    return hide(key, config.cond_dropout, batch["label"], nothing)
  if condition == "text":
    return hide(key, config.cond_dropout, batch["tokens"], nothing)
  if condition == "boxes":
    return batch["tokens"]
  if condition == "segmentation":
    return batch["segmentation"]
  if condition == "low_res":
    return reduce(batch["image"], config.low_res_size)
  holes = draw_holes(key, batch["image"].shape[:3])
  return with_hole(batch["image"], holes)


def hide(key: Key, share: float, condition: Array, nothing: Any) -> Array:
  """The condition, in a random share of the examples `nothing` in its place."""
  if not share:
    return condition
  shape = (len(condition),) + (1,) * (condition.ndim - 1)
  hidden = jax.random.bernoulli(key, share, shape)
  return jnp.where(hidden, jnp.full_like(condition, nothing), condition)


def reduce(images: Array, size: int) -> Array:
  """Images `[B, H, W, C]` at another size, by a cubic filter (section 4.4)."""
  shape = (images.shape[0], size, size, images.shape[-1])
  return jax.image.resize(images, shape, "cubic")


def draw_holes(key: Key, shape: tuple[int, ...]) -> Array:
  """Up to `MAX_HOLES` rectangles an image, bool `[B, H, W]`: True inside.

  Sides are uniform up to half the image, then placed at random. The paper
  trained on LaMa's masks, of which these are only the boxes.

  Args:
    key: one key.
    shape: `(B, H, W)`.
  """
  b, h, w = shape
  count_key, size_key, place_key = jax.random.split(key, 3)
  count = jax.random.randint(count_key, (b, 1), 1, MAX_HOLES + 1)
  exists = jnp.arange(MAX_HOLES)[None] < count
  size = jax.random.uniform(
    size_key, (b, MAX_HOLES, 2), minval=0.05, maxval=0.5
  )
  start = jax.random.uniform(place_key, (b, MAX_HOLES, 2)) * (1 - size)

  def inside(axis: int, length: int) -> Array:  # [B, MAX_HOLES, length]
    x = (jnp.arange(length)[None, None] + 0.5) / length
    low, high = start[..., axis, None], (start + size)[..., axis, None]
    return (low <= x) & (x < high)

  boxes = inside(0, h)[..., :, None] & inside(1, w)[..., None, :]
  return (boxes & exists[..., None, None]).any(1)


def with_hole(images: Array, holes: Array) -> Array:
  """Images in [-1, 1], black in the hole, and the hole as -1 or 1.

  Args:
    images: `[B, H, W, C]`.
    holes: bool `[B, H, W]`.

  Returns:
    `[B, H, W, C + 1]`.
  """
  holes = holes[..., None]
  seen = jnp.where(holes, -1.0, images)
  return jnp.concatenate([seen, jnp.where(holes, 1.0, -1.0)], axis=-1)


def encode(
  config: Config, autoencoder: FirstStage, params: PyTree, condition: Array
) -> tuple[Array | None, Array | None]:
  """(context, concat) of a condition; one of them is None.

  Args:
    config: of the model.
    autoencoder: its first stage.
    params: those of `conditioner` and, for a hole, of `first_stage`.
    condition: of the kind that `config` names.
  """
  if config.condition == "low_res":
    return None, condition
  if config.condition == "mask":
    return None, _around_hole(config, autoencoder, params, condition)
  conditioner = make_conditioner(config)
  variables = {"params": params["conditioner"]}
  if config.condition == "segmentation":
    one_hot = jax.nn.one_hot(condition, config.num_classes)
    return None, conditioner.apply(variables, one_hot)
  return conditioner.apply(variables, condition), None


def _around_hole(
  config: Config, autoencoder: FirstStage, params: PyTree, condition: Array
) -> Array:
  """Latents of what is seen, and the hole at their size by nearest pixels."""
  seen, hole = condition[..., :-1], condition[..., -1:]
  moments = first_stage.encode(autoencoder, params["first_stage"], seen)
  z = first_stage.mode(autoencoder, moments)
  every = config.image_size // config.latent_size
  return jnp.concatenate([z, hole[:, ::every, ::every]], axis=-1)


def check(config: Config, condition: np.ndarray) -> None:
  """Raises ValueError if a condition has not the shape that is wanted."""
  size, channels = config.image_size, config.image_channels
  wanted: dict[str, tuple[int, ...]] = {
    "class": (),
    "text": (config.max_length,),
    "boxes": (config.max_length,),
    "segmentation": (size, size),
    "low_res": (config.low_res_size, config.low_res_size, channels),
    "mask": (size, size, channels + 1),
  }
  if condition.shape[1:] != wanted[config.condition]:
    raise ValueError(
      f"{config.name} needs conditions [B, *{wanted[config.condition]}], got "
      f"{condition.shape}"
    )
