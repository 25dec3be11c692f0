"""Tiny transformers and U-Nets on any mesh: a module, and a script.

    python toy_tensor.py DIRECTORY

The script is one process of several; it trains on data=2, fsdp=2, tensor=2 and
writes losses, samples and bits into the directory.
"""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.sampling import generate
from jaxgen import training
from jaxgen.nn.beit import Beit, MaskedImageModel
from jaxgen.nn.ldm_unet import UNet
from jaxgen.training import parallel

BATCH, STEPS = 16, 3
VIT = MaskedImageModel(
  Beit(4, 32, 2, 4, 64, layer_scale=0.5, dropout=0.1, drop_path=0.1), 16
)
UNET = UNet(
  32,
  (1,),
  num_res_blocks=1,
  attention_resolutions=(1,),
  num_heads=4,
  context_dim=8,
)
# Compiling is what takes time.
QUICKLY = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}
OPTIMIZER = optax.sgd(0.05, momentum=0.9)


def batch_of(step):
  """Everything either network is given, of the whole batch."""
  rng = np.random.default_rng(step)
  draw = lambda *shape: rng.standard_normal((BATCH, *shape), np.float32)
  return {
    "image": draw(8, 8, 3),
    "mask": rng.random((BATCH, 4)) < 0.5,
    "token": rng.integers(0, 16, (BATCH, 4)),
    "latent": draw(4, 4, 4),
    "context": draw(5, 8),
    "t": rng.integers(0, 1000, BATCH),
  }


def vit_loss(params, key, batch):
  rngs = dict(zip(("dropout", "drop_path"), jax.random.split(key), strict=True))
  logits = VIT.apply(
    {"params": params}, batch["image"], batch["mask"], False, rngs=rngs
  )
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, batch["token"]
  ).mean()


def unet_loss(params, key, batch):
  eps = jax.random.normal(key, batch["latent"].shape)
  x = batch["latent"] + eps
  out = UNET.apply({"params": params}, x, batch["t"], batch["context"])
  return jnp.mean((out - eps) ** 2)


LOSSES = {"vit": vit_loss, "unet": unet_loss}


@functools.cache
def shapes(name):
  """The parameters' shapes and dtypes."""
  x = {k: jnp.asarray(v[:1]) for k, v in batch_of(0).items()}
  key = jax.random.key(0)
  if name == "vit":
    found = jax.eval_shape(VIT.init, key, x["image"], x["mask"])
  else:
    args = x["latent"], x["t"], x["context"]
    found = jax.eval_shape(UNET.init, key, *args)
  return found["params"]


def initial_state(name):
  """Numbers everywhere, also where these networks start at zero."""
  rng = np.random.default_rng(7)

  def draw(path, x):
    scale = 0.2 if len(x.shape) < 2 else np.prod(x.shape[:-1]) ** -0.5
    offset = 1.0 if path[-1].key == "scale" else 0.0
    noise = rng.standard_normal(x.shape, np.float32)
    return jnp.asarray(offset + scale * noise, jnp.float32)

  params = jax.tree.map_with_path(draw, shapes(name))
  return training.init_state(params, OPTIMIZER, jax.random.key(3))


def shares(batch):
  """This process's rows."""
  size = BATCH // jax.process_count()
  start = jax.process_index() * size
  return {k: v[start : start + size] for k, v in batch.items()}


@functools.cache
def run(name, data, fsdp, tensor):
  """(state, losses) after a few steps."""
  parallel.MIN_SHARDED_SIZE, before = 2**10, parallel.MIN_SHARDED_SIZE
  try:
    return _run(name, data, fsdp, tensor)
  finally:
    parallel.MIN_SHARDED_SIZE = before


def _run(name, data, fsdp, tensor):
  count = data * fsdp * tensor
  mesh = training.make_mesh(data, fsdp, jax.devices()[:count], tensor)
  state = training.shard_state(mesh, initial_state(name))
  batches = [
    training.shard_batch(mesh, shares(batch_of(i))) for i in range(STEPS)
  ]
  train_step = training.make_train_step(
    LOSSES[name], OPTIMIZER, training.constant_ema(0.5), mesh
  )
  train_step = train_step.lower(state, batches[0]).compile(QUICKLY)
  losses = []
  for batch in batches:
    state, metrics = train_step(state, batch)
    losses.append(float(metrics["loss"]))
  return state, np.array(losses)


@jax.jit
def draw(params, keys, given):
  """Stands for a sampler: an image of a key, a label and the parameters."""
  noise = jax.vmap(lambda key: jax.random.normal(key, (2, 2, 1)))(keys)
  return jnp.tanh(noise + given["label"][:, None, None, None] + params["w"])


def samples():
  given = {"label": np.arange(11.0, dtype=np.float32) / 11}
  params = {"w": jnp.full((1, 1, 1, 1), 0.1)}
  return generate(draw, params, 11, seed=5, batch_size=8, given=given)


def main(directory):
  training.initialize_distributed()
  try:
    training.make_mesh(1, 1, tensor=8)
    message = ""
  except ValueError as error:
    message = str(error)
  found = {
    "losses": run("vit", 2, 2, 2)[1].tolist(),
    "samples": samples().tolist(),
    "message": message,
  }
  path = directory / f"{jax.process_index()}.json"
  path.write_text(json.dumps(found))


if __name__ == "__main__":
  main(Path(sys.argv[1]))
