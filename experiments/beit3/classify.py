"""Fine-tunes BEiT-3's image half for classification, on ImageNet-1k.

  python -m experiments.beit3.classify base --dtype bfloat16 \\
    --init beit3_base_itc_patch16_224.pth
  python -m experiments.beit3.classify openmoji32 --init runs/beit3-openmoji32

The same command continues a run that was stopped or killed. At the end the test
split is classified; result.json has the accuracy. ImageNet: the released
networks have a top-1 of 85.4% (base) and 87.6% (large); not run here. The
paper's giant network is compared with texts instead, the names of classes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from experiments import results
from experiments.beit import accuracy
from experiments.beit.accuracy import Accuracy
from experiments.beit.batches import finetuning_batches, judging_batches
from experiments.beit.model import normalized
from experiments.beit3 import finetuning, model
from experiments.beit3.classify_config import CLASSIFIERS, Classify
from experiments.beit3.finetuning import Loss, Task
from experiments.cli import command_line
from jaxgen.nn.beit3_tasks import ImageClassifier
from jaxgen.training.mixing import mix, soft_target_cross_entropy
from jaxgen.types import Array, Key, PyTree


def make_network(config: Classify) -> ImageClassifier:
  """The network; its head normalises the mean of the trunk's patches."""
  trunk = model.make_trunk(config).clone(output_norm=False)
  return ImageClassifier(trunk, config.num_classes)


TASK = Task("classify", Classify, CLASSIFIERS, make_network)


def train(config: Classify) -> Accuracy | None:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Leaves in the workdir checkpoints/, metrics.jsonl, loss.png, and result.json
  with what it returns.

  Returns:
    The accuracy on the test split; None if there is no such split.
  """
  timer = results.Timer()
  config = finetuning.started(config)
  workdir = finetuning.fit_task(
    TASK,
    config,
    partial(finetuning.make_step, TASK, make_loss(config), config),
    ("image", "label"),
    finetuning_batches,
  )
  if not config.test_split:
    return None
  found = judge(*finetuning.load_params(TASK, str(workdir)))
  if jax.process_index() == 0:
    path = workdir / "result.json"
    accuracy.save(path, config, timer.seconds(), found)
    print(f"{found}: {path}")
  return found


def make_loss(config: Classify) -> Loss:
  """Cross-entropy of smoothed, and perhaps mixed, labels.

  Returns:
    (params, key, batch) -> (loss, metrics): `accuracy` is the share of images
    whose likeliest class is that of the largest target.
  """
  network = TASK.network(config)

  def loss_fn(params: PyTree, key: Key, batch: Any):
    mix_key, drop_key = jax.random.split(key)
    x, targets = mix(
      mix_key,
      normalized(batch["image"], config.normalize),
      batch["label"],
      config.num_classes,
      mixup_alpha=config.mixup,
      cutmix_alpha=config.cutmix,
      smoothing=config.smoothing,
    )
    logits = network.apply(
      {"params": params}, x, False, rngs={"drop_path": drop_key}
    )
    right = (logits.argmax(-1) == targets.argmax(-1)).mean()
    loss = soft_target_cross_entropy(logits, targets).mean()
    return loss, {"accuracy": right}

  return loss_fn


def judge(config: Any, params: PyTree) -> Accuracy:
  """The accuracy on the test split."""
  network = TASK.network(config)

  def classify(params: PyTree, batch: dict[str, Array]) -> Array:
    x = normalized(batch["image"], config.normalize)
    return jnp.asarray(network.apply({"params": params}, x))

  batches = judging_batches(config, config.image_size)
  return accuracy.measure(classify, params, batches)[0]


if __name__ == "__main__":
  named = {name: (name, c) for name, c in CLASSIFIERS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
