"""Trains BEiT-3 to write captions of images, and has it write.

  python -m experiments.beit3.caption base --dtype bfloat16 --remat \\
    --init beit3_base_patch16_224.pth --spm beit3.spm
  python -m experiments.beit3.caption openmoji32

The same command continues a run that was stopped or killed. At the end the
images of the test split are described: captions.json, as COCO's server wants
it, and result.json with BLEU, ROUGE-L and CIDEr. COCO: the released networks
have a CIDEr of 133.6 (base) and 143.2 (large); not run here. Without
TensorFlow Datasets COCO is --dataset karpathy:ROOT; `jaxgen.data.described`
says what ROOT should hold.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import Mesh

from experiments import results
from experiments.beit3 import finetuning, model
from experiments.beit3.batches import Pairs
from experiments.beit3.finetuning import Loss, Task, Tuned
from experiments.beit3.task_batches import (
  Caption,
  judging_batches,
  training_batches,
  view_of,
)
from experiments.beit3.task_config import CAPTIONS, Captions
from experiments.cli import command_line
from jaxgen import training
from jaxgen.data.sentencepiece import (
  END_TOKEN,
  PAD_TOKEN,
  START_TOKEN,
  mask_token,
)
from jaxgen.masked import caption_loss, write_captions
from jaxgen.metrics import caption_scores
from jaxgen.nn.captioner import Captioner
from jaxgen.types import Array, Key, PyTree

TASK = Task(
  "caption", Captions, CAPTIONS, lambda c: Captioner(model.make_trunk(c))
)
KEEP = ("image", "tokens", "masked", "word_mask")


def train(config: Captions) -> Path:
  """Trains to `config.steps`, then describes the test split.

  Returns:
    The workdir, with checkpoints/, tokenizer.json, metrics.jsonl, loss.png,
    captions.json and result.json.
  """
  timer = results.Timer()
  config = finetuning.started(config)
  pairs = Pairs(config, config.split)
  workdir = finetuning.train(
    TASK,
    config,
    pairs,
    partial(make_step, config),
    KEEP,
    lambda config, tokenizer: training_batches(
      config, pairs, Caption(view_of(config), tokenizer, config.mask_share)
    ),
  )
  if config.test_split and jax.process_count() == 1:
    tuned = finetuning.load(TASK, str(workdir))
    found, number = judge(tuned, workdir / "captions.json")
    finetuning.save(workdir, config, timer.seconds(), found | {"n": number})
  return workdir


def make_step(config: Captions, mesh: Mesh) -> training.TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`.

  Of --accumulate: the loss is a mean over masked words; those of micro-batches,
  in each of which the worst words are left out, are averaged, as in the
  released code.
  """
  step = finetuning.make_step(TASK, make_loss(config), config, mesh)

  def with_share(
    state: training.TrainState, batch: Any
  ) -> tuple[training.TrainState, dict[str, Array]]:
    late = state.step > config.drop_worst_after
    share = jnp.where(late, config.drop_worst, 0.0)
    # One for every example: a batch is cut into micro-batches.
    shares = jnp.full(len(batch["image"]), share)
    return step(state, batch | {"drop_worst": shares})

  return jax.jit(with_share, donate_argnums=0)


def make_loss(config: Captions) -> Loss:
  """`caption_loss` of the masked words; a batch has `drop_worst`, too."""
  network = TASK.network(config)

  def loss_fn(params: PyTree, key: Key, batch: Any):
    tokens = batch["tokens"]
    logits = network.apply(
      {"params": params},
      batch["image"],
      batch["masked"],
      tokens == PAD_TOKEN,
      deterministic=False,
      rngs={"drop_path": key},
    )
    return caption_loss(
      logits,
      tokens,
      batch["word_mask"],
      smoothing=config.smoothing,
      drop_worst=batch["drop_worst"][0],
    )

  return loss_fn


def describe(tuned: Tuned, pairs: Pairs) -> list[str]:
  """A caption of every image, by beam search."""
  config, params, tokenizer = tuned
  network = TASK.network(config)

  def write(params: PyTree, batch: dict[str, Array]) -> Array:
    tokens, _ = write_captions(
      network,
      params,
      batch["image"],
      start=START_TOKEN,
      end=END_TOKEN,
      pad=PAD_TOKEN,
      mask=mask_token(tokenizer),
      num_beams=config.num_beams,
      length_penalty=config.length_penalty,
      max_length=config.max_length,
    )
    return tokens

  caption = Caption(view_of(config), tokenizer, config.mask_share)
  batches = judging_batches(config, pairs, caption)
  found: list[str] = []
  for _, tokens in finetuning.predict(write, params, batches):
    found += tokenizer.decode(tokens)
  return found


def judge(tuned: Tuned, path: Path) -> tuple[dict[str, float], int]:
  """Describes the test split and compares with people's captions.

  Args:
    tuned: the network; its configuration says which images.
    path: of the JSON file that gets the captions.

  Returns:
    `caption_scores` in percent, {} if there are no captions of people; and how
    many images there are.
  """
  pairs = Pairs(tuned.config, tuned.config.test_split)
  captions = describe(tuned, pairs)
  content = [
    {"image_id": number, "caption": text}
    for number, text in zip(pairs.numbers(), captions, strict=True)
  ]
  print(f"saved: {finetuning.write_json(path, content)}")
  return scores_of(captions, list(pairs.texts())), len(captions)


def scores_of(
  captions: Sequence[str], people: Sequence[Sequence[str]]
) -> dict[str, float]:
  """`caption_scores` in percent; {} if an image has no captions of people."""
  if not all(people):
    return {}
  found = caption_scores(captions, people)
  return {name: 100 * score for name, score in found.items()}


if __name__ == "__main__":
  named = {name: (name, c) for name, c in CAPTIONS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
