"""Trains BEiT-3 to answer questions about images, VQAv2's.

  python -m experiments.beit3.vqa base --dataset vqav2:ROOT --dtype bfloat16 \\
    --remat --init beit3_base_patch16_224.pth --spm beit3.spm
  python -m experiments.beit3.vqa shapes

`jaxgen.data.vqa` says what ROOT should hold, and which images are held out to
judge by. The same command continues a run that was stopped or killed. At the
end the held-out questions are answered: result.json has the mean of how right
the answers are (`jaxgen.masked.answer_targets`), 0 where the right ones are not
in the list. The answers to the test server's questions are written by
`table_vqav2`. test-dev: the released networks have 77.65 (base) and 81.85
(large); not run here.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from experiments import results
from experiments.beit3 import finetuning, model
from experiments.beit3.finetuning import Loss, Task, Tuned
from experiments.beit3.task_batches import (
  Question,
  Spoken,
  judging_batches,
  training_batches,
  view_of,
)
from experiments.beit3.task_config import ANSWERS, Answers
from experiments.cli import command_line
from jaxgen.data.sentencepiece import PAD_TOKEN
from jaxgen.masked import answer_loss
from jaxgen.nn.beit3_tasks import QuestionAnswering
from jaxgen.types import Array, Key, PyTree


def make_network(config: Answers) -> QuestionAnswering:
  """The network; its head takes the trunk's tokens without normalisation."""
  trunk = model.make_trunk(config).clone(output_norm=False)
  return QuestionAnswering(trunk, config.num_answers)


TASK = Task("vqa", Answers, ANSWERS, make_network, ("dense1", "norm", "dense2"))
KEEP = ("image", "tokens", "targets")


def train(config: Answers) -> Path:
  """Trains to `config.steps`, then answers the questions of the test split.

  Returns:
    The workdir, with checkpoints/, tokenizer.json, metrics.jsonl, loss.png and
    result.json.
  """
  timer = results.Timer()
  config = finetuning.started(config)
  source = open_questions(config, config.split)
  workdir = finetuning.train(
    TASK,
    config,
    source,
    partial(finetuning.make_step, TASK, make_loss(config), config),
    KEEP,
    lambda config, tokenizer: training_batches(
      config, source, Question(view_of(config), tokenizer, config.num_answers)
    ),
  )
  if config.test_split and jax.process_count() == 1:
    accuracy, number = judge(finetuning.load(TASK, str(workdir)))
    found = {"accuracy": accuracy, "n": number}
    finetuning.save(workdir, config, timer.seconds(), found)
  return workdir


def open_questions(config: Answers, split: str) -> Spoken:
  """The questions of a split.

  Raises:
    ValueError: it is of another data set, or its list has not as many answers
      as the network.
  """
  source = Spoken(config, split, "question")
  if len(source.label_names) != config.num_answers:
    raise ValueError(
      f"{config.dataset} has {len(source.label_names)} answers in its list, "
      f"got num_answers = {config.num_answers}"
    )
  return source


def make_loss(config: Answers) -> Loss:
  """`answer_loss`, and how right the likeliest answers are, "accuracy"."""
  network = TASK.network(config)

  def loss_fn(params: PyTree, key: Key, batch: Any):
    tokens = batch["tokens"]
    logits = network.apply(
      {"params": params},
      batch["image"],
      tokens,
      tokens == PAD_TOKEN,
      deterministic=False,
      rngs={"drop_path": key},
    )
    accuracy = rightness(logits, batch["targets"]).mean()
    return answer_loss(logits, batch["targets"]), {"accuracy": accuracy}

  return loss_fn


def rightness(logits: Array, targets: Array) -> Array:
  """Targets of the likeliest answers, `[B]`, of `[B, K]` each."""
  best = logits.argmax(-1, keepdims=True)
  return jnp.take_along_axis(targets, best, axis=-1).squeeze(-1)


def answer(tuned: Tuned, source: Spoken) -> tuple[list[Any], list[float]]:
  """The likeliest answer to every question.

  Returns:
    `{"question_id": ..., "answer": ...}` of each, as VQA's server wants them;
    and how right each is.
  """
  config, params, tokenizer = tuned
  network = TASK.network(config)

  def choose(params: PyTree, batch: dict[str, Array]) -> tuple[Array, Array]:
    tokens = batch["tokens"]
    logits = network.apply(
      {"params": params}, batch["image"], tokens, tokens == PAD_TOKEN
    )
    return logits.argmax(-1), rightness(logits, batch["targets"])

  question = Question(view_of(config), tokenizer, config.num_answers)
  batches = judging_batches(config, source, question)
  answers: list[Any] = []
  scores: list[float] = []
  for batch, (chosen, right) in finetuning.predict(choose, params, batches):
    scores += right.tolist()
    answers += [
      {"question_id": number, "answer": source.label_names[index]}
      for number, index in zip(
        batch["question_id"].tolist(), chosen.tolist(), strict=True
      )
    ]
  return answers, scores


def judge(tuned: Tuned) -> tuple[float, int]:
  """The accuracy in the test split, in percent, and how many questions."""
  source = open_questions(tuned.config, tuned.config.test_split)
  _, scores = answer(tuned, source)
  return 100 * sum(scores) / len(scores), len(scores)


if __name__ == "__main__":
  named = {name: (name, c) for name, c in ANSWERS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
