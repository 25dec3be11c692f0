"""From configurations and checkpoints to segmentation networks."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.beit.segment_config import CONFIGS, Config, Segmentation
from experiments.models import restore_run, shared_fields
from jaxgen import data, training
from jaxgen.convert import beit_segmentation
from jaxgen.convert.beit import adapt_backbone
from jaxgen.data.scenes import DigitScenes
from jaxgen.data.segmentation import SegmentationCrops
from jaxgen.messages import shown
from jaxgen.nn.beit import Beit
from jaxgen.nn.segmentation import Segmenter
from jaxgen.nn.setr import ProgressiveSegmenter
from jaxgen.training.layer_decay import layer_decay_adamw, warmed_up_poly
from jaxgen.training.segmentation_losses import segmentation_loss
from jaxgen.types import Key, PyTree

Network = Segmenter | ProgressiveSegmenter


class Weights(NamedTuple):
  """A trained or published segmentation network.

  Attributes:
    config: of the experiment.
    network: the module.
    variables: "params" and "batch_stats".
  """

  config: Any
  network: Network
  variables: PyTree


class Family(NamedTuple):
  """What is not the same for every kind of backbone.

  Attributes:
    experiment: the name in checkpoints.
    workdirs: what the names of workdirs begin with.
    kind: the class of configurations.
    configs: those that have a name.
    backbone: configuration -> the module.
    pretrained: (configuration, module) -> the parameters of `config.init`.
    published: whether there are published files of segmentation.
  """

  experiment: str
  workdirs: str
  kind: Callable[..., Any]
  configs: Mapping[str, Any]
  backbone: Callable[[Any], Any]
  pretrained: Callable[[Any, Any], PyTree]
  published: bool


def make_backbone(config: Config) -> Beit:
  """BEiT, as it is fine-tuned."""
  fields = shared_fields(config, Beit) | {"dtype": jnp.dtype(config.dtype)}
  return Beit(**fields, mask_token=False)


def pretrained_backbone(config: Config, backbone: Beit) -> PyTree:
  """The parameters of `config.init`, for another use and size.

  Args:
    config: of the segmentation.
    backbone: what is wanted.

  Raises:
    FileNotFoundError: there is no such file or workdir.
    ValueError: it does not fit.
  """
  from experiments.beit import model

  found = model.load(config.init)
  size = config.crop_size
  params = adapt_backbone(
    found.params, found.backbone, backbone, found.image_size, size
  )
  x = jnp.zeros((1, size, size, config.image_channels))
  shapes = jax.eval_shape(backbone.init, jax.random.key(0), x)["params"]
  here, there = (
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (shapes, params)
  )
  for name in sorted(here.keys() | there.keys()):
    if here.get(name) != there.get(name):
      raise ValueError(
        f"{config.init} does not fit: its {name} is {there.get(name)}, wanted "
        f"{here.get(name)}"
      )
  return params


BEIT = Family(
  "beit_segment",
  "runs/beit-",
  Config,
  CONFIGS,
  make_backbone,
  pretrained_backbone,
  published=True,
)


def make_network(config: Any, family: Family = BEIT) -> Network:
  """The backbone with the configured head."""
  kind = Segmenter if config.head == "upernet" else ProgressiveSegmenter
  return kind(family.backbone(config), config.num_classes, config.levels)


def init_variables(config: Any, key: Key, family: Family = BEIT) -> PyTree:
  """Fresh variables; the backbone's are `config.init`'s if there is one.

  Raises:
    FileNotFoundError: there is no such backbone.
    ValueError: it does not fit.
  """
  network = make_network(config, family)
  size = config.crop_size
  x = jnp.zeros((1, size, size, config.image_channels))
  variables = jax.jit(network.init)(key, x)
  if config.init:
    backbone = family.pretrained(config, network.backbone)
    variables = {
      **variables,
      "params": {**variables["params"], "backbone": backbone},
    }
  return variables


def make_optimizer(config: Segmentation) -> optax.GradientTransformation:
  """AdamW with rates by layer; all but vectors are decayed, see `decayed`."""
  rate = warmed_up_poly(config.lr, config.decay_steps, config.warmup_steps)
  return layer_decay_adamw(
    rate,
    config.num_layers,
    decay=config.layer_decay,
    weight_decay=config.weight_decay,
    left_out=(),
  )


def make_loss(config: Segmentation, network: Any) -> training.LossFn:
  """(params, key, batch, batch statistics) -> (loss, metrics, statistics).

  The batch's statistics are those of all devices.

  Args:
    config: of the experiment.
    network: maps (variables, images, train) to two arrays of logits.
  """

  def loss_fn(params, key, batch, stats):
    keys = jax.random.split(key)
    outputs, new = network.apply(
      {"params": params, "batch_stats": stats},
      batch["image"],
      True,
      rngs={"dropout": keys[0], "drop_path": keys[1]},
      mutable=["batch_stats"],
    )
    logits, auxiliary = outputs
    loss, metrics = segmentation_loss(
      logits, auxiliary, batch["segmentation"], config.auxiliary_weight
    )
    return loss, metrics, new["batch_stats"]

  return loss_fn


def init_state(
  config: Any, key: Key, run_key: Key, family: Family = BEIT
) -> training.TrainState:
  """The state before the first step; its memory are batch statistics."""
  variables = init_variables(config, key, family)
  return training.init_state(
    variables["params"],
    make_optimizer(config),
    run_key,
    variables["batch_stats"],
  )


def open_images(
  config: Segmentation, split: str, scenes: int = 0
) -> Sequence[Any]:
  """Examples with `image` and `segmentation`.

  Args:
    config: of the experiment.
    split: of the data set.
    scenes: if not 0, so many scenes of the split's digits.
  """
  source = data.load(config.dataset, split, config.data_dir or None)
  if not scenes:
    return source
  # The scenes of the test are the same whatever the training's seed.
  seed = (0, config.seed) if split == config.split else (1, 0)
  return DigitScenes(source, scenes, seed)


def make_crops(config: Segmentation) -> SegmentationCrops:
  """The transform of training."""
  fields = shared_fields(config, SegmentationCrops)
  return SegmentationCrops(crop=config.crop_size, **fields)


def batches(config: Segmentation) -> Any:
  """The stream of crops that a configuration names."""
  return data.train_batches(
    open_images(config, config.split, config.scenes),
    config.batch_size,
    config.crop_size,
    config.seed,
    transform=make_crops(config),
    num_workers=config.num_workers,
  )


def load(weights: str, family: Family = BEIT) -> Weights:
  """A trained segmentation network.

  Args:
    weights: a workdir of the family's `segment`, or NAME:PATH of a published
      file for ADE20K, where NAME is a configuration's, such as "base_640".
    family: its backbone's.

  Raises:
    FileNotFoundError: there is neither, or none of that name were published.
    ValueError: the weights are another network's.
  """
  path = Path(weights)
  if (path / "checkpoints").is_dir():
    saved = training.restore_experiment(path / "checkpoints")
    if saved["experiment"] != family.experiment:
      raise ValueError(
        f"{weights} holds {shown(saved['experiment'])}, not {family.experiment}"
      )
    config, _ = restore_run(path, family.kind)
    params, stats = (
      training.restore_params(path / "checkpoints", which)
      for which in ("params", "memory")
    )
    variables = {"params": params, "batch_stats": stats}
    return Weights(config, make_network(config, family), variables)
  if not family.published:
    raise FileNotFoundError(
      f"{weights} is no workdir of {family.experiment}, of which no weights "
      "were published"
    )
  name, _, file = weights.partition(":")
  if name not in family.configs or not file:
    raise FileNotFoundError(
      f"{weights} is neither a workdir nor NAME:PATH of a published file, "
      f"where NAME is one of {', '.join(family.configs)}"
    )
  config = family.configs[name]
  network = make_network(config, family)
  if not isinstance(network, Segmenter):
    raise FileNotFoundError(f"no weights of {name} were published")
  variables = beit_segmentation.load(file, network, config.crop_size)
  return Weights(config, network, variables)


def record(config: Segmentation) -> dict[str, Any]:
  """The configuration for a result, without paths of this machine."""
  fields = dataclasses.asdict(config)
  kind, colon, root = config.dataset.partition(":")
  dataset = f"{kind}{colon}{Path(root).name}"
  return fields | {"dataset": dataset, "init": Path(config.init).name}
