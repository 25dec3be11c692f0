"""Trains the small networks whose features compare images without downloads.

  python -m experiments.features mnist5k
  python -m experiments.features openmoji32

A classifier of the data set's labels, trained on its training split for about
two minutes on two CPU cores; written with its accuracy on the test split to
jaxgen/metrics/weights/NAME-cnn.safetensors, which ships with the package.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax.traverse_util import flatten_dict

from experiments import results
from experiments.cli import command_line
from jaxgen import data, training
from jaxgen.convert.state import write_safetensors
from jaxgen.metrics.features import SHIPPED
from jaxgen.nn.small_cnn import SmallCNN, SmallTaps
from jaxgen.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Config:
  """One classifier.

  Attributes:
    name: of the weights file.
    dataset: TFDS name; its labels are the classes.
    image_size: height and width.
    flip: random horizontal flips.
    shift: largest random shift in pixels.
    lr: Adam's peak learning rate.
    batch_size: over all devices.
    steps: number of updates.
    seed: of initialisation, data order and shifts.
  """

  name: str
  dataset: str
  image_size: int
  flip: bool
  shift: int = 2
  lr: float = 2e-3
  batch_size: int = 64
  steps: int = 1500
  seed: int = 0


CONFIGS = {
  "mnist5k": Config("mnist5k-cnn", "mnist5k", 28, flip=False),
  "openmoji32": Config("openmoji32-cnn", "openmoji/32", 32, flip=True),
}


def train(config: Config) -> tuple[SmallCNN, PyTree]:
  """The classifier and its averaged parameters."""
  source = data.load(config.dataset, "train")
  network = SmallCNN(len(source.label_names))
  mesh = training.make_mesh()
  batches = data.train_batches(
    source, config.batch_size, config.image_size, config.seed, flip=config.flip
  )

  def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
    x = shifted(key, batch["image"], config.shift)
    logits = SmallTaps(*network.apply({"params": params}, x)).logits
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["label"]
    ).mean()

  optimizer = training.adam(
    config.lr, warmup_steps=50, clip_norm=1.0, decay_steps=config.steps
  )
  step = training.make_train_step(
    loss, optimizer, training.warmed_up_ema(0.99), mesh
  )
  init_key, key = jax.random.split(jax.random.key(config.seed))
  x = jnp.zeros((1, config.image_size, config.image_size, source.channels))
  params = jax.jit(network.init)(init_key, x)["params"]
  state = training.init_state(params, optimizer, key)
  state = training.shard_state(mesh, state)
  progress = training.Progress(config.steps)
  for i in range(1, config.steps + 1):
    batch = next(batches)
    kept = {name: batch[name] for name in ("image", "label")}
    state, values = step(state, training.shard_batch(mesh, kept))
    if i % 50 == 0:
      progress.update(i, float(values["loss"]))
  progress.close()
  return network, jax.device_get(state.ema)


def shifted(key: Key, x: Array, most: int) -> Array:
  """Each image moved by up to `most` pixels, its border repeated."""
  padded = jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0)), "edge")
  corners = jax.random.randint(key, (len(x), 2), 0, 2 * most + 1)
  cut = lambda image, corner: jax.lax.dynamic_slice(
    image, (*corner, 0), x.shape[1:]
  )
  return jax.vmap(cut)(padded, corners)


def accuracy(network: SmallCNN, params: PyTree, config: Config) -> float:
  """The share of the test split that is classified correctly."""
  source = data.load(config.dataset, "test")
  classify = jax.jit(
    lambda params, x: SmallTaps(
      *network.apply({"params": params}, x)
    ).logits.argmax(-1)
  )
  right = []
  for batch in data.eval_batches(source, 100, config.image_size):
    guess = np.asarray(classify(params, batch["image"]))
    right.append((guess == batch["label"])[batch["mask"]])
  return float(np.concatenate(right).mean())


def main(config: Config) -> None:
  """Trains, measures and writes one classifier."""
  timer = results.Timer()
  network, params = train(config)
  share = accuracy(network, params, config)
  about = {
    **dataclasses.asdict(config),
    "accuracy on test": round(share, 4),
    "device": results.device(),
    "commit": results.commit(),
  }
  flat = flatten_dict(params, sep=".")
  path = SHIPPED / f"{config.name}.safetensors"
  path.parent.mkdir(exist_ok=True)
  write_safetensors(
    path, flat, {"format": "flax", "provenance": json.dumps(about)}
  )
  print(f"accuracy {share:.2%}, {timer.seconds():.0f} s: {path}")


if __name__ == "__main__":
  named = {name: (name, config) for name, config in CONFIGS.items()}
  command_line(lambda: main(tyro.extras.overridable_config_cli(named)))
