"""Fine-tunes BEiT for classification, or trains the same network from scratch.

  python -m experiments.beit.finetune base_plain_in1k --init runs/beit-base
  python -m experiments.beit.finetune base_in22k --init \\
    beit_base_patch16_224_pt22k.pth --dataset folder:/data/imagenet22k
  python -m experiments.beit.finetune base_22kto1k \\
    --init runs/finetune-base_in22k
  python -m experiments.beit.finetune mnist5k --init runs/beit-mnist5k \\
    --labels 200

--init is a workdir of pre-training or of another fine-tuning, a released .pth
file or a folder of the hub. The same command continues a run that was stopped
or killed. Not run on ImageNet: the paper's BEiT-B reaches 83.2% top-1 after
pre-training on ImageNet-1k. `mnist5k` takes about two minutes on two CPU
cores.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import tyro
from jax.sharding import Mesh

from experiments import results
from experiments.beit import accuracy, model
from experiments.beit import finetune_config as configs
from experiments.beit.accuracy import Accuracy
from experiments.beit.batches import finetuning_batches, judging_batches
from experiments.beit.finetune_config import Finetune
from experiments.cli import command_line
from experiments.fitting import fit
from jaxgen import training
from jaxgen.nn.beit import Classifier
from jaxgen.training.layer_decay import layer_decay_adamw, warmed_up_cosine
from jaxgen.training.mixing import mix, soft_target_cross_entropy
from jaxgen.types import Array, Key, PyTree


def train(config: Finetune) -> Accuracy | None:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Leaves in the workdir checkpoints/, metrics.jsonl, loss.png, and result.json
  with what it returns.

  Returns:
    The accuracy on the test split; None if there is no such split.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = workdir_of(config)
  timer = results.Timer()
  fit(
    config,
    "beit_finetune",
    workdir,
    partial(init_state, config),
    partial(make_step, config),
    keep=("image", "label"),
    batches=finetuning_batches,
  )
  if not config.test_split:
    return None
  params = training.restore_params(workdir / "checkpoints", "ema")
  found = judge(config, model.make_classifier(config), params)
  if jax.process_index() == 0:
    path = workdir / "result.json"
    accuracy.save(path, config, timer.seconds(), found)
    print(f"{found}: {path}")
  return found


def workdir_of(config: Finetune) -> Path:
  """Where a fine-tuning keeps its checkpoints."""
  return Path(config.workdir or f"runs/finetune-{config.name}")


def judge(
  config: Finetune,
  network: Classifier,
  params: PyTree,
  classes: Sequence[int] = (),
) -> Accuracy:
  """The accuracy on the test split.

  Args:
    config: its images and how they are cut.
    network: the classifier.
    params: its parameters.
    classes: among which it chooses; all if none are named.
  """

  def classify(params: PyTree, batch: dict[str, Array]) -> Array:
    x = model.normalized(batch["image"], config.normalize)
    logits = jnp.asarray(network.apply({"params": params}, x))
    return among(logits, classes) if classes else logits

  batches = judging_batches(config, config.image_size)
  return accuracy.measure(classify, params, batches)[0]


def among(logits: Array, classes: Sequence[int]) -> Array:
  """Logits `[B, K]` of which only those of some classes may be the largest."""
  possible = jnp.zeros(logits.shape[-1], bool).at[jnp.array(classes)].set(True)
  return jnp.where(possible[None], logits, -jnp.inf)


def make_optimizer(config: Finetune) -> optax.GradientTransformation:
  """AdamW with a smaller rate for earlier blocks."""
  rate = warmed_up_cosine(
    config.lr, config.min_lr, config.warmup, config.decay_steps
  )
  return layer_decay_adamw(
    rate,
    config.num_layers,
    decay=config.layer_decay,
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
  )


def init_state(config: Finetune, key: Key, run_key: Key) -> training.TrainState:
  """The state before the first step."""
  params = model.init_classifier(config, key)
  return training.init_state(params, make_optimizer(config), run_key)


def make_step(config: Finetune, mesh: Mesh) -> training.TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`."""
  return training.make_train_step(
    make_loss(config),
    make_optimizer(config),
    training.constant_ema(config.ema_decay),
    mesh,
    config.accumulate,
  )


def make_loss(
  config: Finetune,
) -> Callable[[PyTree, Key, dict[str, Array]], tuple[Array, dict[str, Array]]]:
  """Cross-entropy of smoothed, and perhaps mixed, labels.

  Returns:
    (params, key, batch) -> (loss, metrics): `accuracy` is the share of images
    whose likeliest class is that of the largest target.
  """
  network = model.make_classifier(config)

  def loss_fn(params: PyTree, key: Key, batch: dict[str, Array]):
    mix_key, drop_key = jax.random.split(key)
    x = model.normalized(batch["image"], config.normalize)
    x, targets = mix(
      mix_key,
      x,
      batch["label"],
      config.num_classes,
      mixup_alpha=config.mixup,
      cutmix_alpha=config.cutmix,
      smoothing=config.smoothing,
    )
    logits = jnp.asarray(
      network.apply({"params": params}, x, False, rngs={"drop_path": drop_key})
    )
    right = (logits.argmax(-1) == targets.argmax(-1)).mean()
    loss = soft_target_cross_entropy(logits, targets).mean()
    return loss, {"accuracy": right}

  return loss_fn


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
