"""Images from a model: per-image keys, batches over all devices, uint8 out."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rich.progress import track

from jaxgen import data, training
from jaxgen.metrics.files import read_images, write_images
from jaxgen.types import Array, Key, PyTree

# (params, keys [B]) -> x [B, H, W, C] in [-1, 1], jitted.
Draw = Callable[[PyTree, Key], Array]


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
