"""Trains BEiT-3 to tell whether statements are true of two images, NLVR2's.

  python -m experiments.beit3.nlvr2 base --dataset nlvr2:ROOT \\
    --dtype bfloat16 --init beit3_base_patch16_224.pth --spm beit3.spm
  python -m experiments.beit3.nlvr2 shapes

`jaxgen.data.described` says what ROOT should hold. The same command continues a
run that was stopped or killed. At the end the statements of the test split are
judged; result.json has the accuracy. dev and test-P: the released networks have
83.6 and 84.4 (base), 88.5 and 89.4 (large); not run here.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
import tyro

from experiments import results
from experiments.beit import accuracy
from experiments.beit.accuracy import Accuracy
from experiments.beit3 import finetuning, model
from experiments.beit3.finetuning import Loss, Task, Tuned
from experiments.beit3.task_batches import (
  Spoken,
  Statement,
  judging_batches,
  training_batches,
  view_of,
)
from experiments.beit3.task_config import STATEMENTS, Statements
from experiments.cli import command_line
from jaxgen.data.sentencepiece import PAD_TOKEN
from jaxgen.nn.beit3_tasks import VisualReasoning
from jaxgen.types import Array, Key, PyTree

TASK = Task(
  "nlvr2",
  Statements,
  STATEMENTS,
  lambda config: VisualReasoning(model.make_trunk(config)),
)
KEEP = ("image", "other", "tokens", "label")


def train(config: Statements) -> Path:
  """Trains to `config.steps`, then judges the statements of the test split.

  Returns:
    The workdir, with checkpoints/, tokenizer.json, metrics.jsonl, loss.png and
    result.json.
  """
  timer = results.Timer()
  config = finetuning.started(config)
  source = Spoken(config, config.split, "statement")
  workdir = finetuning.train(
    TASK,
    config,
    source,
    partial(finetuning.make_step, TASK, make_loss(config), config),
    KEEP,
    lambda config, tokenizer: training_batches(
      config, source, Statement(view_of(config), tokenizer)
    ),
  )
  if config.test_split and jax.process_count() == 1:
    found = judge(finetuning.load(TASK, str(workdir)), config.test_split)
    numbers = {"accuracy": 100 * found.top1, "n": found.n}
    finetuning.save(workdir, config, timer.seconds(), numbers)
  return workdir


def make_loss(config: Statements) -> Loss:
  """The cross-entropy, and the share that is right, "accuracy"."""
  network = TASK.network(config)

  def loss_fn(params: PyTree, key: Key, batch: Any):
    tokens = batch["tokens"]
    logits = network.apply(
      {"params": params},
      batch["image"],
      batch["other"],
      tokens,
      tokens == PAD_TOKEN,
      deterministic=False,
      rngs={"drop_path": key},
    )
    labels = batch["label"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = (logits.argmax(-1) == labels).mean()
    return loss.mean(), {"accuracy": right}

  return loss_fn


def judge(tuned: Tuned, split: str) -> Accuracy:
  """How many statements of a split are judged right."""
  config, params, tokenizer = tuned
  network = TASK.network(config)

  def classify(params: PyTree, batch: dict[str, Array]) -> Array:
    tokens = batch["tokens"]
    return network.apply(
      {"params": params},
      batch["image"],
      batch["other"],
      tokens,
      tokens == PAD_TOKEN,
    )

  source = Spoken(config, split, "statement")
  statement = Statement(view_of(config), tokenizer)
  batches = judging_batches(config, source, statement)
  return accuracy.measure(classify, params, batches, (*KEEP, "mask"))[0]


if __name__ == "__main__":
  named = {name: (name, c) for name, c in STATEMENTS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
