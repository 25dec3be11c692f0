"""Bits per dimension of a test split by the probability flow ODE."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import jaxgen.diffusion as jd
from experiments.models import CROPS, Model
from jaxgen import data, training


def ode_bits(
  model: Model,
  n: int,
  repeats: int = 1,
  batch_size: int = 64,
  tolerance: float = 1e-5,
  seed: int = 0,
) -> tuple[float, float, float, str]:
  """(mean, standard error, NFE, protocol) over the first n images.

  Args:
    model: the model, of a continuous process.
    n: images of the test split; fewer if it is smaller.
    repeats: draws of dequantisation and probe for each image.
    batch_size: images at a time, over all devices.
    tolerance: rtol and atol.
    seed: of the draws.
  """
  config = model.config
  mesh = training.make_mesh()
  batch_size = -(-min(batch_size, n) // mesh.size) * mesh.size
  params = training.shard_state(mesh, model.params)
  tolerances = jd.Tolerances(tolerance, tolerance)

  @jax.jit
  def bits(params, key, batch):
    images = jnp.rint((batch["image"] + 1) * 127.5).astype(jnp.int32)
    denoiser = model.denoiser(params, None)
    return jd.ode_bits_per_dim(
      model.process, denoiser, key, images, tolerances=tolerances
    )

  source = data.load(config.dataset, config.test_split, config.data_dir or None)
  batches = data.eval_batches(
    source, batch_size, config.image_size, crop=CROPS[config.crop]
  )
  count = -(-min(n, len(source)) // batch_size)
  values, evaluations, protocol = [], [], ""
  for i, batch in enumerate(
    track(itertools.islice(batches, count), "bits/dim of the ODE", count)
  ):
    kept = {name: batch[name] for name in ("image", "mask")}
    x = training.shard_batch(mesh, kept)
    mask = training.gather(x.pop("mask"))
    draws = []
    for repeat in range(repeats):
      key = jax.random.fold_in(jax.random.key(seed), i * repeats + repeat)
      found = bits(params, key, x)
      draws.append(training.gather(found.bits_per_dim)[mask])
      evaluations.append(float(found.num_evaluations))
      protocol = found.protocol
    values.append(np.mean(draws, axis=0))
  all_values = np.concatenate(values)[:n]
  error = float(all_values.std() / np.sqrt(len(all_values)))
  return float(all_values.mean()), error, float(np.mean(evaluations)), protocol
