"""The features that metrics compare, and the network that extracts them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.tree_util import Partial
from jax.typing import DTypeLike

from jaxgen.convert import inception as weights
from jaxgen.convert.state import read_safetensors
from jaxgen.metrics.resize import RESIZES
from jaxgen.nn.inception import Inception, Taps
from jaxgen.nn.small_cnn import SmallCNN, SmallTaps
from jaxgen.types import Array

SHIPPED = Path(__file__).parent / "weights"


class Features(NamedTuple):
  """Features of B images, float32.

  Attributes:
    pool: `[B, D]`, of FID, KID, precision and recall; Inception's D = 2048.
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
    resize: a name in `resize.RESIZES`, or "none".
    channels: of the images it takes, 1 or 3.
    apply: uint8 images `[B, H, W, channels]` -> `Features`, compiled for each
      shape. It is a pytree of the weights: it can be an argument of
      compiled functions, and `jax.device_put` moves it, for example to all
      devices of a mesh.
  """

  name: str
  weights_hash: str
  resize: str
  channels: int
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
  return Extractor("inception-2015", digest[:16], resize, 3, apply)


def small(name: str) -> Extractor:
  """A small classifier that ships with jaxgen: no download, no FID.

  Args:
    name: "mnist5k-cnn" or "openmoji32-cnn", trained by `experiments.features`
      on the data set of that name; its metrics mean nothing elsewhere.

  Raises:
    ValueError: if there is no such network.
  """
  path = SHIPPED / f"{name}.safetensors"
  if not path.is_file():
    names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
    raise ValueError(f"Shipped features are {names}, got {name!r}.")
  params = unflatten_dict(
    {key: jnp.asarray(x) for key, x in read_safetensors(path).items()}, sep="."
  )
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  channels = params["conv_0"]["kernel"].shape[2]
  network = SmallCNN(params["classes"]["kernel"].shape[1])

  def extract(params, images):
    if images.dtype != jnp.uint8 or images.shape[3:] != (channels,):
      raise ValueError(
        f"{name} takes uint8 images [B, H, W, {channels}], got "
        f"{images.dtype} {images.shape}."
      )
    x = images.astype(jnp.float32) / 127.5 - 1
    taps = SmallTaps(*network.apply({"params": params}, x))
    spatial = taps.spatial.reshape(len(images), -1)
    return Features(taps.pool, spatial, taps.logits)

  apply = Partial(jax.jit(extract), params)
  return Extractor(name, digest[:16], "none", channels, apply)
