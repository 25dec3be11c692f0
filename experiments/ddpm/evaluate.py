"""Bits per dimension of a data set under a model."""

import itertools

import jax
import numpy as np
from rich.progress import track

import jaxgen.diffusion as jd
from experiments.ddpm import model
from experiments.ddpm.config import Config
from jaxgen import data, training
from jaxgen.nn.ddpm_unet import UNet
from jaxgen.types import PyTree


def bits_per_dim(
  config: Config,
  unet: UNet,
  params: PyTree,
  split: str,
  n: int,
  seed: int = 0,
  batch_size: int = 64,
) -> tuple[float, float]:
  """The variational bound's mean over images, with x_0 clipped.

  All T terms, one noise draw each, as in the paper's evaluation.

  Args:
    config: of the model.
    unet: its network.
    params: its parameters.
    split: TFDS split.
    n: the first n images of the split; fewer if it is smaller.
    seed: of the noise.
    batch_size: images at a time, over all devices.

  Returns:
    (mean, standard error) in bits per dimension.
  """
  process = model.make_process(config)
  mesh = training.make_mesh()
  batch_size = -(-min(batch_size, n) // mesh.size) * mesh.size
  params = training.shard_state(mesh, params)

  @jax.jit
  def bound(params, key, x_0):
    network = model.make_network(unet, params)
    denoiser = model.make_denoiser(config, process, network)
    denoiser = jd.clip_x_0(process, denoiser)
    variance = model.VARIANCE[config.variance]
    return jd.vlb_bits_per_dim(process, denoiser, key, x_0, variance).total

  source = data.load(config.dataset, split, config.data_dir or None)
  batches = data.eval_batches(
    source, batch_size, config.image_size, crop=model.CROPS[config.crop]
  )
  count = -(-min(n, len(source)) // batch_size)
  totals = []
  for i, batch in enumerate(
    track(itertools.islice(batches, count), f"bits/dim of {split}", count)
  ):
    images = training.shard_batch(mesh, {"image": batch["image"]})["image"]
    key = jax.random.fold_in(jax.random.key(seed), i)
    totals.append(np.asarray(bound(params, key, images))[batch["mask"]])
  values = np.concatenate(totals)[:n]
  return float(values.mean()), float(values.std() / np.sqrt(len(values)))
