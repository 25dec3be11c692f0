"""The features that metrics compare, and the network that extracts them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import DTypeLike

from jaxgen.convert import inception as weights
from jaxgen.metrics.resize import RESIZES
from jaxgen.nn.inception import Inception, Taps
from jaxgen.types import Array


class Features(NamedTuple):
  """Features of B images, float32.

  Attributes:
    pool: `[B, D]`, of FID, KID, precision and recall; D = 2048.
    spatial: `[B, S]`, of sFID; S = 17 * 17 * 7.
    logits: `[B, K]` without the bias, of the Inception Score; K = 1008.
  """

  pool: Array
  spatial: Array
  logits: Array


class Extractor(NamedTuple):
  """A network that extracts features, and what tells it from others.

  Attributes:
    name: of the network.
    weights_hash: the first 16 digits of the SHA-256 of its file.
    resize: a name in `resize.RESIZES`.
    apply: uint8 images `[B, H, W, C]`, C = 1 or 3 -> `Features`, compiled for
      each shape. It is a pytree of the weights: it can be an argument of
      compiled functions, and `jax.device_put` moves it, for example to all
      devices of a mesh.
  """

  name: str
  weights_hash: str
  resize: str
  apply: Callable[[Array], Features]


def inception(
  path: str | Path | None = None,
  resize: str = "pytorch-fid",
  dtype: DTypeLike = jnp.float32,
) -> Extractor:
  """FID's Inception-v3.

  Args:
    path: of the weights; by default the published file, downloaded once.
    resize: the rule to bring images to 299 x 299. Those who ran TensorFlow's
      graph, like DDPM and ADM, had "tf1".
    dtype: of the computation. Published scores are of float32.

  Raises:
    FileNotFoundError: if there is no such file.
    OSError: if the published file cannot be downloaded.
    ValueError: if there is no such rule, or the file does not hold the weights.
  """
  if resize not in RESIZES:
    raise ValueError(f"resize is one of {', '.join(RESIZES)}, got {resize!r}.")
  path = weights.weights_path() if path is None else Path(path)
  params = weights.load(path)
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  network = Inception(dtype=dtype)

  def extract(params, images):
    x = RESIZES[resize](images)
    taps = Taps(*network.apply({"params": params}, x))
    spatial = taps.spatial.reshape(len(images), -1)
    return Features(taps.pool, spatial, taps.logits_unbiased)

  # The weights are an argument: as constants they would be compiled in.
  apply = Partial(jax.jit(extract), params)
  return Extractor("inception-2015", digest[:16], resize, apply)
