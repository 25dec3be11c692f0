"""Trains ADM's classifier of noisy images, and guides samples by it.

  python -m experiments.iddpm.classifier imagenet128 --workdir runs/classifier
  python -m experiments.iddpm.classifier mnist5k --workdir runs/digit-classifier
  python -m experiments.iddpm.sample --weights runs/iddpm-mnist5k \\
    --classifier runs/digit-classifier --classifier-scale 1.0 --label 3

Cross-entropy of the label at x_t, t uniform (Dhariwal & Nichol 2021, section
4), by AdamW with weight decay and a rate that falls linearly to 0. The same
command continues a run that was stopped. ADM also cuts its crops at random;
here they are central. Not run on ImageNet.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro

import jaxgen.diffusion as jd
from experiments.cli import command_line
from experiments.fitting import fit
from experiments.iddpm.model import make_process
from experiments.models import Model, restore_run, shared_fields
from jaxgen import training
from jaxgen.convert import openai
from jaxgen.nn.openai_classifier import Classifier
from jaxgen.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Config:
  """One classifier; the defaults are ADM's for ImageNet-128.

  Attributes:
    name: of the experiment.
    dataset: TFDS name; its labels are the classes.
    split: TFDS split to train on.
    image_size: height and width.
    image_channels: 1 for grey, 3 for colour.
    flip: random horizontal flips.
    num_classes: of the data set.
    channels: width of the first level.
    channel_mult: width of each level, in units of `channels`.
    num_res_blocks: residual blocks per level.
    attention_resolutions: heights of the feature maps with attention.
    num_head_channels: channels of a head.
    T: number of noising steps, those of the model it guides.
    schedule: of beta, that of the model it guides.
    lr: AdamW's first rate; it falls to 0 over `decay_steps`.
    decay_steps: the number of updates of the whole run.
    weight_decay: AdamW's.
    batch_size: over all devices.
    seed: of initialisation, data order and noise.
    steps: run: number of updates.
    fsdp: run: devices that share one copy of the parameters.
    accumulate: run: micro-batches that a batch is worked through in.
    workdir: run: where checkpoints and results go.
    data_dir: run: where TFDS keeps data sets; its own default if empty.
    save_every: run: steps between checkpoints.
    log_every: run: steps between lines of metrics.jsonl.
    num_workers: run: processes that decode images.
    on_nan: run: what a loss that is not finite costs: the training, or a step.
  """

  name: str = "imagenet128"
  dataset: str = "imagenet2012"
  split: str = "train"
  image_size: int = 128
  image_channels: int = 3
  flip: bool = True
  num_classes: int = 1000
  channels: int = 128
  channel_mult: tuple[float, ...] = (1, 1, 2, 3, 4)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (32, 16, 8)
  num_head_channels: int = 64
  T: int = 1000
  schedule: Literal["linear", "cosine"] = "linear"
  lr: float = 3e-4
  decay_steps: int = 300_000
  weight_decay: float = 0.05
  batch_size: int = 256
  seed: int = 0
  steps: int = 300_000
  fsdp: int = 1
  accumulate: int = 1
  workdir: str = ""
  data_dir: str = ""
  save_every: int = 10_000
  log_every: int = 100
  num_workers: int = 0
  on_nan: Literal["stop", "skip"] = "stop"


_IMAGENET = Config()
CONFIGS = {
  "imagenet64": dataclasses.replace(
    _IMAGENET,
    name="imagenet64",
    image_size=64,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=4,
    schedule="cosine",
  ),
  "imagenet128": _IMAGENET,
  "imagenet256": dataclasses.replace(
    _IMAGENET,
    name="imagenet256",
    image_size=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
  ),
  "imagenet512": dataclasses.replace(
    _IMAGENET,
    name="imagenet512",
    image_size=512,
    channel_mult=(0.5, 1, 1, 2, 2, 4, 4),
  ),
  "mnist5k": Config(
    name="mnist5k",
    dataset="mnist5k",
    image_size=28,
    image_channels=1,
    flip=False,
    num_classes=10,
    channels=32,
    channel_mult=(1, 1, 2),
    num_res_blocks=1,
    attention_resolutions=(7,),
    num_head_channels=32,
    schedule="cosine",
    decay_steps=1000,
    batch_size=64,
    steps=1000,
    save_every=500,
    log_every=10,
  ),
}
RELEASED = {f"{n}x{n}_classifier.pt": f"imagenet{n}" for n in (64, 128, 256)}
RELEASED["512x512_classifier.pt"] = "imagenet512"


def make_classifier(config: Config) -> Classifier:
  """The network."""
  return Classifier(**shared_fields(config, Classifier))


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl and loss.png.
  """
  training.initialize_distributed()
  workdir = Path(config.workdir or f"runs/classifier-{config.name}")
  process, classifier = make_process(config), make_classifier(config)

  def loss(params: PyTree, key: Key, batch: dict[str, Array]):
    t_key, eps_key = jax.random.split(key)
    t = jd.random_times(process, t_key, len(batch["label"]))
    x_t, _ = jd.q_sample(process, eps_key, batch["image"], t)
    logits = jnp.asarray(classifier.apply({"params": params}, x_t, t - 1))
    right = (logits.argmax(-1) == batch["label"]).mean()
    entropy = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["label"]
    )
    return entropy.mean(), {"accuracy": right}

  optimizer = optax.adamw(
    optax.linear_schedule(config.lr, 0.0, config.decay_steps),
    weight_decay=config.weight_decay,
  )

  def init(key: Key, run_key: Key) -> training.TrainState:
    x = jnp.zeros((1, *[config.image_size] * 2, config.image_channels))
    params = jax.jit(classifier.init)(key, x, jnp.zeros(1))["params"]
    return training.init_state(params, optimizer, run_key)

  # No average: decay 0 leaves the parameters themselves.
  decay = training.constant_ema(0.0)
  step = partial(
    training.make_train_step,
    loss,
    optimizer,
    decay,
    accumulate=config.accumulate,
  )

  return fit(
    config, "iddpm_classifier", workdir, init, step, keep=("image", "label")
  )


def load(weights: str) -> tuple[Config, Classifier, PyTree]:
  """A trained classifier: a workdir of `train`, or a released file.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: the file's name is none of the release.
  """
  path = Path(weights)
  if (path / "checkpoints").is_dir():
    saved = training.restore_experiment(path / "checkpoints")
    if saved["experiment"] != "iddpm_classifier":
      raise ValueError(f"{weights} holds another experiment than a classifier")
    config, params = restore_run(path, Config)
    return config, make_classifier(config), params
  if not path.is_file():
    raise FileNotFoundError(
      f"{weights} is neither a workdir nor a released file: no such path"
    )
  if path.name not in RELEASED:
    raise ValueError(
      f"{path.name} is none of the released files: {', '.join(RELEASED)}"
    )
  network: Any
  network, params = openai.load(path)
  return CONFIGS[RELEASED[path.name]], network, params


def guide(model: Model, weights: str) -> Model:
  """The model with a classifier, whose gradient pushes its samples.

  A model that is told no labels is left so: the classifier alone knows them.

  Raises:
    ValueError: the classifier knows other noise levels or classes.
  """
  config, classifier, params = load(weights)
  for name in ("image_size", "T", "schedule"):
    wanted, found = getattr(model.config, name), getattr(config, name)
    if wanted != found:
      raise ValueError(
        f"the model has {name} {wanted}, its classifier {found}: a classifier "
        "guides a model of the same images and noise levels"
      )
  if model.num_classes not in (0, config.num_classes):
    raise ValueError(
      f"the model has {model.num_classes} classes, its classifier "
      f"{config.num_classes}"
    )

  def denoiser(params: PyTree, labels: Array | None, *rest: Array):
    told = labels if model.num_classes else None
    return model.denoiser(params["model"], told, *rest)

  def log_prob(params: PyTree, labels: Array):
    def of(x: Array, t: Array) -> Array:
      logits = classifier.apply({"params": params["classifier"]}, x, t - 1)
      log_p = jax.nn.log_softmax(jnp.asarray(logits))
      return jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]

    return of

  return model._replace(
    params={"model": model.params, "classifier": params},
    denoiser=denoiser,
    num_classes=config.num_classes,
    log_prob=log_prob,
  )


if __name__ == "__main__":
  named = {name: (name, config) for name, config in CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
