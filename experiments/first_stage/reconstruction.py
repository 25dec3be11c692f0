"""Reconstructions of unseen images, and how good they are."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from rich.progress import track

from experiments.evaluate import Yardstick
from experiments.first_stage import model
from experiments.first_stage.config import Config
from experiments.models import CROPS
from jaxgen import data, random, training
from jaxgen.metrics.protocol import Score
from jaxgen.metrics.reconstruction import psnr, ssim
from jaxgen.metrics.scores import scores
from jaxgen.metrics.statistics import collect
from jaxgen.nn import posteriors
from jaxgen.nn.quantizers import usage_of
from jaxgen.types import Array, Key, PyTree


class Images(Sequence):
  """The images that a configuration is judged by, uint8 `[H, W, C]`."""

  def __init__(self, config: Config, n: int = 0) -> None:
    """Opens them; the first n, or all if 0."""
    self._source = data.load(
      config.test_dataset or config.dataset,
      config.test_split,
      config.data_dir or None,
    )
    self._config = config
    self._n = min(n or len(self._source), len(self._source))

  def __len__(self) -> int:
    return self._n

  def __getitem__(self, index: Any) -> Any:
    crop = CROPS[self._config.crop]
    return crop(self._source[index]["image"], self._config.image_size)


class Batch(NamedTuple):
  """Images, their reconstructions, and what was measured of them.

  Attributes:
    x: uint8 `[B, H, W, C]`.
    x_hat: uint8, of the same shape.
    measured: of each image `[B, ...]`: PSNR, SSIM, PSIM where there is LPIPS,
      and `kl` in nats or `indices` of codes.
  """

  x: np.ndarray
  x_hat: np.ndarray
  measured: dict[str, np.ndarray]


def reconstruct(
  weights: model.Weights,
  images: Sequence[np.ndarray],
  batch_size: int = 64,
  lpips: Partial | None = None,
  seed: int = 0,
) -> Iterator[Batch]:
  """Reconstructs images over all devices.

  A posterior is sampled, as in the original's validation; image i's noise is
  of the key fold_in(key(seed), i), whatever the batch. Reconstructions are
  rounded to 8 bits before they are measured.

  Args:
    weights: configuration, network and parameters.
    images: uint8 `[H, W, C]`.
    batch_size: images at a time.
    lpips: (x, y) -> `[B]`, if it shall be measured.
    seed: of the posteriors' samples.
  """
  mesh = training.make_mesh()
  size = -(-batch_size // mesh.size) * mesh.size
  apply = make_apply(weights)
  params, lpips = training.shard_state(mesh, (weights[2], lpips))
  for start in range(0, len(images), size):
    count = min(size, len(images) - start)
    some = [images[i] for i in range(start, start + count)]
    x = np.stack(some + [some[-1]] * (size - count))
    keys = random.image_keys(jax.random.key(seed), start, size)
    inputs = training.split_batch(mesh, (keys, data.to_unit(x)))
    x_hat, measured = apply(params, *inputs, lpips)
    measured = {k: training.gather(v)[:count] for k, v in measured.items()}
    x_hat = training.gather(x_hat)[:count]
    yield Batch(x[:count], data.to_uint8(x_hat), measured)


def make_apply(weights: model.Weights) -> Callable[..., Any]:
  """The jitted (parameters, keys, x, LPIPS) -> (x_hat, measured)."""
  config, autoencoder, _ = weights
  decoder = "decode_quantized" if config.num_codes else "decode"

  @jax.jit
  def apply(params: PyTree, keys: Key, x: Array, lpips: Partial | None):
    variables = {"params": params}
    encoded: Any = autoencoder.apply(variables, x, method="encode")
    if config.num_codes:
      codes: Any = autoencoder.apply(variables, encoded, method="quantize")
      z, measured = codes.z_q, {"indices": codes.indices}
    else:
      z = jax.vmap(posteriors.sample)(keys, encoded)
      measured = {"kl": posteriors.kl(encoded)}
    x_hat: Any = autoencoder.apply(variables, z, method=decoder)
    # As 8 bits, in units of to_uint8.
    y = jnp.clip(jnp.floor(127.5 * x_hat + 128), 0, 255) / 127.5 - 1
    measured |= {"PSNR": psnr(x, y, 2.0), "SSIM": ssim(x, y, 2.0)}
    if lpips is not None:
      measured["PSIM"] = lpips(x, y)
    return x_hat, measured

  return apply


@dataclasses.dataclass(frozen=True)
class Judgement:
  """What is known of an autoencoder's reconstructions.

  Attributes:
    values: means over the images, by the names of Table 8's columns, and `kl`,
      or `used` and `perplexity` over all codes.
    spread: standard deviations over the images.
    scores: FID of the reconstructions, ..., each with its protocol.
    collapse: one sentence if codebook or posterior have collapsed, else "".
    shown: the first images and their reconstructions.
  """

  values: dict[str, float]
  spread: dict[str, float]
  scores: dict[str, Score]
  collapse: str
  shown: Batch


def judge(
  weights: model.Weights,
  images: Sequence[np.ndarray],
  yardstick: Yardstick,
  batch_size: int = 64,
  lpips: Partial | None = None,
) -> Judgement:
  """Measures the reconstructions of images.

  Args:
    weights: configuration, network and parameters.
    images: the originals, uint8 `[H, W, C]`.
    yardstick: of FID.
    batch_size: images at a time.
    lpips: (x, y) -> `[B]`, if PSIM shall be measured.
  """
  config = weights[0]
  found: list[dict[str, np.ndarray]] = []
  shown: list[Batch] = []
  counts = np.zeros(config.num_codes, np.int64)

  def stream():
    for batch in reconstruct(weights, images, batch_size, lpips):
      if "indices" in batch.measured:
        indices = batch.measured.pop("indices")
        counts[:] += np.bincount(indices.ravel(), minlength=len(counts))
      found.append(batch.measured)
      shown[:] = shown or [batch]
      yield batch.x_hat

  steps = -(-len(images) // batch_size)
  batches = track(stream(), "reconstructing", total=steps, transient=True)
  generated = collect(
    yardstick.extractor, batches, len(images), "reconstructions"
  )
  means, spread = {}, {}
  for name in found[0]:
    column = np.concatenate([part[name] for part in found])
    means[name] = float(column.mean())
    spread[name] = float(column.std())
  if config.num_codes:
    usage = usage_of(jnp.asarray(counts))
    means["used"], means["perplexity"] = map(float, usage)
  rated = scores(generated, yardstick.reference, "round")
  collapse = model.collapse(config, means, len(images))
  return Judgement(means, spread, rated, collapse, shown[0])


def grid(batch: Batch, columns: int = 8) -> np.ndarray:
  """Rows of images, each above the row of its reconstructions."""
  n = min(len(batch.x), 4 * columns)
  rows = []
  for start in range(0, n - n % columns or n, columns):
    stop = min(start + columns, n)
    rows += [batch.x[start:stop], batch.x_hat[start:stop]]
  return np.concatenate(rows)
