"""A split's latents, encoded once and kept in a file.

What is kept is what the encoder says, the posterior's moments of an
autoencoder that has one: the noise of its samples is drawn anew in every step.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.progress import track

from experiments.evaluate import params_digest
from experiments.ldm import first_stage
from experiments.ldm.batches import load_source
from experiments.ldm.config import Config
from experiments.models import CROPS
from jaxgen import data, training
from jaxgen.nn.autoencoder import FirstStage
from jaxgen.types import PyTree


def cached(
  config: Config,
  autoencoder: FirstStage,
  params: PyTree,
  directory: Path,
  batch_size: int = 64,
) -> np.ndarray:
  """The latents of the training split, made if they are not there yet.

  Args:
    config: of the model.
    autoencoder: the first stage.
    params: its parameters.
    directory: of latents.npy and latents.json, which says of what they are.
    batch_size: images encoded at a time.

  Returns:
    float32 `[1 or 2, N, h, w, c]` as `first_stage.encode` gives them, mapped
    from the file: of the images and, if `config.flip`, of their mirror images.

  Raises:
    ValueError: the directory holds the latents of other images or of another
      first stage.
    OSError: it cannot be written.
  """
  source = load_source(config)
  wanted = _identity(config, autoencoder, params, len(source))
  path, note = directory / "latents.npy", directory / "latents.json"
  if not note.exists() and jax.process_index() == 0:
    try:
      directory.mkdir(parents=True, exist_ok=True)
      _write(path, config, source, autoencoder, params, batch_size)
      temporary = note.with_name(f".{note.name}.{os.getpid()}.tmp")
      temporary.write_text(json.dumps(wanted, indent=2) + "\n")
      os.replace(temporary, note)
    except OSError as error:
      raise OSError(f"cannot write {path}: {error}") from error
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"wrote {path}")
  _check(note, wanted)
  return np.load(path, mmap_mode="r")


def _identity(
  config: Config, autoencoder: FirstStage, params: PyTree, n: int
) -> dict[str, Any]:
  """What latents depend on, as JSON has it."""
  names = ("dataset", "split", "image_size", "crop", "flip")
  architecture = hashlib.sha256(repr(autoencoder).encode()).hexdigest()[:16]
  return {
    **{name: getattr(config, name) for name in names},
    "images": n,
    "first_stage": f"{architecture}-{params_digest(params)}",
  }


def _check(note: Path, wanted: dict[str, Any]) -> None:
  found = json.loads(note.read_text())
  differing = [
    f"{name} ({found.get(name)!r}, now {value!r})"
    for name, value in wanted.items()
    if found.get(name) != value
  ]
  if differing:
    raise ValueError(
      f"{note.parent} holds other latents, of another {', '.join(differing)}: "
      "delete that folder or choose another workdir"
    )


def _write(
  path: Path,
  config: Config,
  source: Sequence,
  autoencoder: FirstStage,
  params: PyTree,
  batch_size: int,
) -> None:
  """Encodes the images on this host's devices; the file appears whole."""
  mesh = training.make_mesh(devices=jax.local_devices())
  size = -(-batch_size // mesh.size) * mesh.size
  encode = jax.jit(lambda p, x: first_stage.encode(autoencoder, p, x))
  params = training.shard_state(mesh, params)
  batches = data.eval_batches(
    _Images(source),
    size,
    config.image_size,
    crop=CROPS[config.crop],
    process_index=0,
    process_count=1,
  )
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  array = None
  total = -(-len(source) // size)
  for i, batch in enumerate(track(batches, "latents", total, transient=True)):
    rows = slice(i * size, min((i + 1) * size, len(source)))
    views = [batch["image"]]
    if config.flip:
      views.append(np.ascontiguousarray(batch["image"][:, :, ::-1]))
    for view, images in enumerate(views):
      found = np.asarray(encode(params, training.shard_batch(mesh, images)))
      if array is None:
        shape = (len(views), len(source), *found.shape[1:])
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
      array[view, rows] = found[: rows.stop - rows.start]
  assert array is not None
  array.flush()
  os.replace(temporary, path)


@dataclasses.dataclass(frozen=True)
class _Images(Sequence):
  """The images of a source and nothing else."""

  source: Sequence

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index):
    return {"image": self.source[index]["image"]}
