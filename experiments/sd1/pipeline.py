"""Images from Stable Diffusion 1, of text, images and masks.

An image depends on its seed alone, whatever images, batches and devices there
are beside it.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress

from experiments.sd1 import config, programs, prompts
from experiments.sd1.config import How
from experiments.sd1.weights import Model
from jaxgen import data, training


class Request(NamedTuple):
  """One image that is asked for."""

  prompt: str
  negative: str = ""
  seed: int = 0


class Start(NamedTuple):
  """What images are made from beside text.

  Attributes:
    image: uint8 `[H, W, 3]`.
    strength: the share of the steps that is run, from the image with the noise
      of their first; with a mask and strength 1, from noise.
    mask: bool `[H, W]`, True where to paint; None to change all of the image.
  """

  image: np.ndarray
  strength: float = 0.75
  mask: np.ndarray | None = None


def keep_programs() -> None:
  """Keeps compiled programs on disk, unless JAX has been told where.

  In ~/.cache/jaxgen/programs; JAX_COMPILATION_CACHE_DIR is another place.
  """
  option = "jax_compilation_cache_dir"
  if getattr(jax.config, option) is None:
    place = Path("~/.cache/jaxgen/programs").expanduser()
    jax.config.update(option, str(place))


def generate(
  model: Model,
  how: How,
  requests: Sequence[Request],
  start: Start | None = None,
  batch_size: int = 4,
  progress: bool = True,
  mesh: Mesh | None = None,
) -> np.ndarray:
  """The images that are asked for, as `sample` makes them.

  Where there is a mask, what it does not show of the image is kept as it is.

  Returns:
    uint8 `[N, H, W, 3]`.
  """
  x = sample(model, how, requests, start, batch_size, progress, mesh)
  images = data.to_uint8(x)
  if start is None or start.mask is None:
    return images
  return np.where(start.mask[..., None], images, start.image)


def sample(
  model: Model,
  how: How,
  requests: Sequence[Request],
  start: Start | None = None,
  batch_size: int = 4,
  progress: bool = True,
  mesh: Mesh | None = None,
) -> np.ndarray:
  """What the decoder makes of the sampled latents.

  Args:
    model: the model.
    how: the sampler and the size; that of the image to start from, if any.
    requests: one for each image.
    start: an image to start from; the inpainting model needs one with a mask.
    batch_size: images at a time, rounded up to a multiple of the devices.
    progress: run the programs of `programs.stepwise` and show a bar, not the
      one of `programs.whole`.
    mesh: of other devices than all.

  Returns:
    Float32 `[N, H, W, 3]`, about in [-1, 1].

  Raises:
    ValueError: options that do not go together.
  """
  if start is not None:
    height, width = start.image.shape[:2]
    how = dataclasses.replace(how, height=height, width=width)
  _check(model, how, requests, start, batch_size)
  mesh = training.make_mesh() if mesh is None else mesh
  drawn = _drawn(model, how, requests, start, batch_size, progress, mesh)
  return np.concatenate(list(drawn))[: len(requests)]


def _drawn(
  model: Model,
  how: How,
  requests: Sequence[Request],
  start: Start | None,
  batch_size: int,
  progress: bool,
  mesh: Mesh,
) -> Iterator[np.ndarray]:
  """Batches of images."""
  size = -(-min(batch_size, len(requests)) // mesh.size) * mesh.size
  batches = [
    programs.place(mesh, programs.SPLIT, batch)
    for batch in _batches(model, requests, size)
  ]
  params = programs.place(mesh, programs.SHARED, model.params)
  shared = programs.place(mesh, programs.SHARED, _shared(how, start))
  times = config.kept_times(how, start.strength if start else 1.0)
  make = programs.stepwise if progress else programs.whole
  args = (params, batches[0], shared)
  draw = make(model.networks, how, times, mesh, args)
  console = Console()
  hidden = not (progress and console.is_terminal)
  with Progress(console=console, transient=True, disable=hidden) as bar:
    task = bar.add_task(how.sampler, total=len(batches) * (len(times) - 1))
    for batch in batches:
      yield np.asarray(
        draw(params, batch, shared, lambda n: bar.advance(task, n))
      )


def _check(
  model: Model,
  how: How,
  requests: Sequence[Request],
  start: Start | None,
  batch_size: int,
) -> None:
  config.check(how, model.networks)
  sees = model.networks.unet.concat_channels
  channels = 1 + model.networks.first_stage.z_channels
  if sees not in (0, channels):
    raise ValueError(
      f"the U-Net of {model.name} sees {sees} channels beside the latent, "
      f"wanted none, or the {channels} of a mask and an image's latent"
    )
  if sees and (start is None or start.mask is None):
    raise ValueError(f"{model.name} is an inpainting model, it needs a mask")
  if not requests or batch_size < 1:
    raise ValueError(
      "wanted at least one image and a batch size of at least 1, got "
      f"{len(requests)} and {batch_size}"
    )
  for request in requests:
    if not 0 <= request.seed < 2**32:
      raise ValueError(f"a seed must lie in [0, 2^32), got {request.seed}")


def _batches(
  model: Model, requests: Sequence[Request], size: int
) -> Iterator[Mapping[str, np.ndarray]]:
  """Tokens and seeds; the last request fills the last batch."""
  texts = [request.prompt for request in requests]
  negatives = [request.negative for request in requests]
  arrays = {
    "tokens": prompts.encode(model.tokenizer, texts),
    "negative": prompts.encode(model.tokenizer, negatives),
    "seed": np.array([request.seed for request in requests], np.uint32),
  }
  for first in range(0, len(requests), size):
    rows = np.minimum(np.arange(first, first + size), len(requests) - 1)
    yield {name: array[rows] for name, array in arrays.items()}


def _shared(how: How, start: Start | None) -> Mapping[str, Any]:
  """What all images of a run have in common."""
  shared: dict[str, Any] = {"scale": np.float32(how.scale)}
  if start is not None:
    shared["image"] = data.to_unit(start.image)[None]
  if start is not None and start.mask is not None:
    shared["mask"] = start.mask[None, ..., None].astype(np.float32)
    shared["pure"] = np.bool_(start.strength == 1)
  return shared
