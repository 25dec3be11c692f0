"""Images from a model: per-image keys, batches over all devices, uint8 out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rich.progress import track

from jaxgen import data, training
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
  mesh = training.make_mesh()
  devices = mesh.size
  batch_size = -(-min(batch_size, n) // devices) * devices
  sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  params = training.shard_state(mesh, params)
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  images = []
  for start in track(range(0, n, batch_size), label, transient=True):
    indices = jnp.arange(start, start + batch_size)
    keys = jax.device_put(fold_in(jax.random.key(seed), indices), sharding)
    images.append(data.to_uint8(np.asarray(draw(params, keys))))
  return np.concatenate(images)[:n]
