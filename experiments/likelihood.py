"""Bits per dimension of a data set under a model."""

import itertools

import jax
import numpy as np
from rich.progress import track

import jaxgen.diffusion as jd
from experiments.models import CROPS, Model
from jaxgen import data, training


def bits_per_dim(
  model: Model,
  split: str,
  n: int,
  seed: int = 0,
  batch_size: int = 64,
  chunk: int = 1,
) -> tuple[float, float]:
  """The variational bound's mean over images, with x_0 clipped.

  All T terms, one noise draw each, as in the papers' evaluations.

  Args:
    model: the model.
    split: TFDS split.
    n: the first n images of the split; fewer if it is smaller.
    seed: of the noise.
    batch_size: images at a time, over all devices.
    chunk: terms at a time.

  Returns:
    (mean, standard error) in bits per dimension.

  Raises:
    ValueError: the process has no discrete times.
  """
  config, process = model.config, model.process
  if not isinstance(process, jd.DiscreteProcess):
    raise ValueError(
      "the variational bound needs a discrete process, got "
      f"{type(process).__name__}"
    )
  mesh = training.make_mesh()
  batch_size = -(-min(batch_size, n) // mesh.size) * mesh.size
  params = training.shard_state(mesh, model.params)

  @jax.jit
  def bound(params, key, batch):
    given = [batch["label"] if model.num_classes else None]
    if model.low_res_size:
      given.append(data.shrink(batch["image"], model.low_res_size))
    denoiser = jd.clip_x_0(process, model.denoiser(params, *given))
    return jd.vlb_bits_per_dim(
      process, denoiser, key, batch["image"], model.variance, chunk=chunk
    ).total

  source = data.load(config.dataset, split, config.data_dir or None)
  batches = data.eval_batches(
    source, batch_size, config.image_size, crop=CROPS[config.crop]
  )
  kept = ["image", "mask"] + ["label"] * bool(model.num_classes)
  count = -(-min(n, len(source)) // batch_size)
  totals = []
  for i, batch in enumerate(
    track(itertools.islice(batches, count), f"bits/dim of {split}", count)
  ):
    x = training.shard_batch(mesh, {name: batch[name] for name in kept})
    key = jax.random.fold_in(jax.random.key(seed), i)
    mask = training.gather(x.pop("mask"))
    totals.append(training.gather(bound(params, key, x))[mask])
  values = np.concatenate(totals)[:n]
  return float(values.mean()), float(values.std() / np.sqrt(len(values)))
