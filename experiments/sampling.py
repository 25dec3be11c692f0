"""Images from a model: ways to sample, per-image keys, batches over devices."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rich.progress import track

import jaxgen.diffusion as jd
from experiments.models import Model
from jaxgen import data, training
from jaxgen.metrics.files import read_images, write_images
from jaxgen.types import Array, Key, PyTree

# (params, keys [B]) -> x [B, H, W, C] in [-1, 1], jitted.
Draw = Callable[[PyTree, Key], Array]
Grid = Literal["even", "uniform", "quadratic", "respaced"]
GRIDS = {
  "even": jd.descending_times,
  "uniform": jd.uniform_times,
  "quadratic": jd.quadratic_times,
  "respaced": lambda T, n: jd.respaced_times(T, str(n)),
}


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to sample.

  Attributes:
    sampler: "ddpm" is ancestral sampling, "ddim" takes eta.
    steps: of the sampler; for "ddpm" all T as a rule.
    grid: "even" spreads the steps from T to 0, "uniform" and "quadratic" are
      DDIM's (App. D.2), "respaced" is improved DDPM's (section 4).
    eta: DDIM's.
    variance: of the ancestral step, where none is learned; the model's own by
      default.
    clip: clip the estimate of x_0 to [-1, 1] at every step.
  """

  sampler: Literal["ddpm", "ddim"] = "ddpm"
  steps: int = 1000
  grid: Grid = "even"
  eta: float = 0.0
  variance: Literal["small", "large"] | None = None
  clip: bool = True


def make_draw(model: Model, how: Sampling) -> Draw:
  """The jitted (params, keys) -> images of a way to sample.

  A class-conditional model is told a label drawn from each image's key.
  """
  config, process = model.config, model.process
  times = GRIDS[how.grid](config.T, how.steps)
  size = config.image_size
  fixed = {"small": jd.FIXED_SMALL, "large": jd.FIXED_LARGE}

  @jax.jit
  def draw(params, keys):
    labels = _labels(keys, model.num_classes) if model.num_classes else None
    denoiser = model.denoiser(params, labels)
    if how.clip:
      denoiser = jd.clip_x_0(process, denoiser)
    if how.sampler == "ddpm":
      variance = fixed[how.variance] if how.variance else model.variance
      sampler = jd.ancestral(process, denoiser, variance)
    else:
      sampler = jd.ddim(process, denoiser, how.eta)
    shape = (keys.shape[0], size, size, config.image_channels)
    return jd.sample(keys, jd.prior(process, keys, shape), times, sampler)

  return draw


def _labels(keys: Key, num_classes: int) -> Array:
  """A uniform label for each key, of a stream that no sampler uses."""
  draw = lambda key: jax.random.randint(
    jax.random.fold_in(key, 2**31 - 1), (), 0, num_classes
  )
  return jax.vmap(draw)(keys)


def generate(
  draw: Draw,
  params: PyTree,
  n: int,
  seed: int = 0,
  batch_size: int = 64,
  label: str = "sampling",
) -> np.ndarray:
  """n images, each from its own key: image i is the same for every batch size.

  Args:
    draw: samples a batch from one key per image.
    params: the network's parameters.
    n: how many.
    seed: image i's key is fold_in(key(seed), i).
    batch_size: images per call, over all devices.
    label: shown by the progress bar.

  Returns:
    uint8 `[n, H, W, C]`.
  """
  size = min(batch_size, n)
  batches = _batches(draw, params, range(0, n, size), size, seed, label)
  return np.concatenate([data.to_uint8(x) for _, x in batches])[:n]


def generate_shards(
  draw: Draw,
  params: PyTree,
  n: int,
  directory: str | Path,
  identity: Mapping[str, object],
  seed: int = 0,
  batch_size: int = 64,
  truncate: bool = False,
) -> list[np.ndarray]:
  """The images of `generate`, kept batch by batch in a directory.

  Called again, it draws only the batches that are not there: after it was
  stopped, or for a larger n.

  Args:
    draw: samples a batch from one key per image.
    params: the network's parameters.
    n: how many images.
    directory: of the batches, as ADM's .npz, and of run.json.
    identity: what else the images depend on, for run.json.
    seed: as in `generate`.
    batch_size: images per call and file.
    truncate: the rounding rule, as in `jaxgen.data.to_uint8`.

  Returns:
    n uint8 images `[H, W, C]`.

  Raises:
    ValueError: the directory holds images of another run.
    OSError: it cannot be written.
  """
  directory = Path(directory)
  identity = {
    **identity,
    "seed": seed,
    "batch_size": batch_size,
    "truncate": truncate,
  }
  _check_identity(directory / "run.json", identity)
  paths = {
    start: directory / f"images-{start:06d}.npz"
    for start in range(0, n, batch_size)
  }
  missing = [start for start, path in paths.items() if not path.exists()]
  if len(missing) < len(paths):
    print(f"{directory} already has {len(paths) - len(missing)} batches")
  for start, x in _batches(draw, params, missing, batch_size, seed, "sampling"):
    write_images(paths[start], data.to_uint8(x, truncate))
  return [image for path in paths.values() for image in read_images(path)][:n]


def _batches(
  draw: Draw,
  params: PyTree,
  starts: Sequence[int],
  size: int,
  seed: int,
  label: str,
) -> Iterator[tuple[int, np.ndarray]]:
  """(start, images start, ..., start + size - 1) of each start."""
  mesh = training.make_mesh()
  full = -(-size // mesh.size) * mesh.size
  sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  params = training.shard_state(mesh, params)
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  for start in track(starts, label, transient=True):
    indices = jnp.arange(start, start + full)
    keys = jax.device_put(fold_in(jax.random.key(seed), indices), sharding)
    yield start, np.asarray(draw(params, keys))[:size]


def _check_identity(path: Path, identity: Mapping[str, object]) -> None:
  wanted = json.loads(json.dumps(identity))
  if path.exists():
    found = json.loads(path.read_text())
    differing = [
      f"{name} ({found.get(name)!r}, now {value!r})"
      for name, value in wanted.items()
      if found.get(name) != value
    ]
    if differing:
      raise ValueError(
        f"{path.parent} holds images of another run, which differs in "
        f"{', '.join(differing)}: choose another directory"
      )
    return
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(wanted, indent=2) + "\n")
    os.replace(temporary, path)
  except OSError as error:
    raise OSError(f"cannot write {path}: {error}") from error
