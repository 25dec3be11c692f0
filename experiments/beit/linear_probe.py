"""Probes a frozen BEiT: one linear classifier for the output of every block.

  python -m experiments.beit.linear_probe in1k --init runs/beit-base
  python -m experiments.beit.linear_probe mnist5k --init runs/beit-mnist5k
  python -m experiments.beit.linear_probe mnist5k --init runs/beit-mnist5k \\
    --fresh

All classifiers are trained together, the sum of their cross-entropies, and the
best on the test split is reported, as in the released script: so it is chosen
by the images that it is judged by. --fresh probes the same network untrained.
The paper's BEiT-B reaches 56.7% top-1 on ImageNet-1k, at its 9th block; not run
here. `mnist5k` takes seconds on two CPU cores.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import results
from experiments.beit import accuracy, model
from experiments.beit import probe_config as configs
from experiments.beit.accuracy import Accuracy
from experiments.beit.batches import (
  FeatureSource,
  central_batches,
  feature_batches,
  judging_batches,
  labelled,
  probing_batches,
)
from experiments.beit.probe_config import Probe
from experiments.cli import command_line
from experiments.fitting import fit
from jaxgen import training
from jaxgen.training.optimizers import cosine_between
from jaxgen.types import Array, Key, PyTree

MOST_BYTES = 8 * 2**30


@dataclasses.dataclass(frozen=True)
class Probed:
  """What the classifiers of all blocks reach.

  Attributes:
    layers: of the first block, the second, ...
  """

  layers: tuple[Accuracy, ...]

  @property
  def layer(self) -> int:
    """The block whose classifier is best, counted from 1."""
    tops = [found.top1 for found in self.layers]
    return 1 + tops.index(max(tops))

  @property
  def best(self) -> Accuracy:
    """What it reaches."""
    return self.layers[self.layer - 1]


@dataclasses.dataclass(frozen=True)
class Frozen:
  """The network that is probed.

  Attributes:
    config: of the probe.
    found: the network.
  """

  config: Probe
  found: model.Pretrained

  @classmethod
  def load(cls, config: Probe) -> "Frozen":
    """The network of `config.init`, with fresh parameters if so wanted.

    Raises:
      ValueError: none is named, or nothing tells how its pixels are normalised.
    """
    if not config.init:
      raise ValueError("a linear probe needs --init, the network to be probed")
    found = model.load(config.init)
    if config.normalize != "trained":
      found = found._replace(normalize=config.normalize)
    if found.normalize is None:
      raise ValueError(
        f"{config.init} does not tell how its pixels are normalised: set "
        "--normalize to half or imagenet"
      )
    backbone = found.backbone.clone(dtype=jnp.dtype(config.dtype))
    params = found.params
    if config.fresh:
      channels = params["patch_embed"]["kernel"].shape[2]
      x = jnp.zeros((1, *[found.image_size] * 2, channels))
      key = jax.random.key(config.seed)
      params = jax.jit(backbone.init)(key, x)["params"]
    return cls(config, found._replace(backbone=backbone, params=params))

  def features(self, params: PyTree, images: Array) -> Array:
    """What all blocks tell of images in [-1, 1]: `[B, L, D]`, float32.

    D is the width, or with "cls_mean" twice the width.
    """
    assert self.found.normalize is not None  # `load` has seen to it
    x = model.normalized(images, self.found.normalize)
    outputs: Any = self.found.backbone.apply({"params": params}, x)
    told = []
    for h in outputs:
      h = h.astype(jnp.float32)
      mean = h[:, 1:].mean(1)
      kinds = {"mean": (mean,), "cls": (h[:, 0],), "cls_mean": (h[:, 0], mean)}
      told.append(jnp.concatenate(kinds[self.config.features], -1))
    return jnp.stack(told, axis=1)


def probe(config: Probe) -> Probed:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Leaves in the workdir checkpoints/ of the classifiers, metrics.jsonl,
  loss.png, and result.json with what it returns.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/probe-{config.name}")
  timer = results.Timer()
  frozen = Frozen.load(config)
  keep = ("image" if config.augment else "features", "label")
  fit(
    config,
    "beit_probe",
    workdir,
    partial(init_state, frozen),
    partial(make_step, frozen),
    keep=keep,
    batches=partial(stream, frozen),
  )
  params = training.restore_params(workdir / "checkpoints", "params")
  found = judge(frozen, params)
  if jax.process_index() == 0:
    layers = [dataclasses.asdict(layer) for layer in found.layers]
    path = workdir / "result.json"
    accuracy.save(
      path,
      config,
      timer.seconds(),
      found.best,
      layer=found.layer,
      layers=layers,
    )
    print(f"block {found.layer} of {len(layers)}: {found.best}: {path}")
  return found


def stream(frozen: Frozen, config: Probe) -> Any:
  """The endless stream of images, or of features that are computed here."""
  source = labelled(config)
  if config.augment:
    return probing_batches(config, source, frozen.found.image_size)
  return feature_batches(config, all_features(frozen, source))


def all_features(frozen: Frozen, source: Any) -> FeatureSource:
  """The features of the central crops of images, in memory.

  Raises:
    ValueError: they do not fit there, or there are several processes.
  """
  if jax.process_count() > 1:
    raise ValueError("features are kept by one process: set --augment")
  mesh = training.make_mesh()
  everywhere = NamedSharding(mesh, PartitionSpec())
  params = jax.device_put(frozen.found.params, everywhere)
  of = jax.jit(frozen.features, out_shardings=everywhere)
  batches = central_batches(frozen.config, source, frozen.found.image_size)
  features, labels = [], []
  for batch in batches:
    images = training.shard_batch(mesh, {"image": batch["image"]})["image"]
    found = np.asarray(of(params, images))[batch["mask"]]
    if (size := found[0].nbytes * len(source)) > MOST_BYTES:
      raise ValueError(
        f"the features of {len(source)} images take {size / 2**30:.0f} GiB: "
        "set --augment, which computes them anew"
      )
    features.append(found)
    labels.append(batch["label"][batch["mask"]])
  return FeatureSource(np.concatenate(features), np.concatenate(labels))


def init_state(frozen: Frozen, key: Key, run_key: Key) -> training.TrainState:
  """Weights `[L, D, K]` of deviation 0.01 and biases `[L, K]` of 0."""
  backbone, config = frozen.found.backbone, frozen.config
  width = backbone.width * (2 if config.features == "cls_mean" else 1)
  shape = (backbone.num_layers, width, config.num_classes)
  params = {
    "kernel": 0.01 * jax.random.normal(key, shape),
    "bias": jnp.zeros((shape[0], shape[2])),
  }
  return training.init_state(params, make_optimizer(config), run_key)


def make_optimizer(config: Probe) -> optax.GradientTransformation:
  """AdamW whose rate falls to 0, in one step for each epoch."""

  def rate(step: Array) -> Array:
    first = step - step % config.epoch_steps  # of this epoch
    return cosine_between(first, config.lr, 0.0, config.decay_steps)

  return optax.adamw(rate, weight_decay=config.weight_decay)


def make_step(frozen: Frozen, mesh: Mesh) -> training.TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`.

  A batch has images or features. The network's parameters are arguments of it.
  """
  config = frozen.config

  def loss_fn(params: PyTree, key: Key, batch: dict[str, Any]):
    del key
    features = batch.get("features")
    if features is None:
      features = frozen.features(batch["backbone"], batch["image"])
    logits = classify(params, features)
    labels = jnp.broadcast_to(batch["label"][None], logits.shape[:2])
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = (logits.argmax(-1) == labels).mean(1)
    return entropy.mean(1).sum(), {"accuracy": right.max()}

  optimizer = make_optimizer(config)
  decay = training.constant_ema(0.0)
  step = training.make_train_step(loss_fn, optimizer, decay, mesh)
  if not config.augment:
    return step
  everywhere = NamedSharding(mesh, PartitionSpec())
  fixed = {"backbone": jax.device_put(frozen.found.params, everywhere)}
  return lambda state, batch: step(state, batch | fixed)


def classify(params: PyTree, features: Array) -> Array:
  """Logits `[L, B, K]` of features `[B, L, D]`."""
  logits = jnp.einsum("bld,ldk->lbk", features, params["kernel"])
  return logits + params["bias"][:, None]


def judge(frozen: Frozen, params: PyTree) -> Probed:
  """The accuracy of every block's classifier on the test split."""

  def logits_of(params: PyTree, batch: dict[str, Array]) -> Array:
    features = frozen.features(params["backbone"], batch["image"])
    return classify(params["probe"], features)

  both = {"backbone": frozen.found.params, "probe": params}
  batches = judging_batches(frozen.config, frozen.found.image_size)
  return Probed(tuple(accuracy.measure(logits_of, both, batches)))


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: probe(tyro.extras.overridable_config_cli(named)))
