"""Trains a dual encoder of images and captions, and searches with it.

  python -m experiments.beit3.retrieval coco_base --dtype bfloat16 \\
    --init beit3_base_itc_patch16_224.pth --spm beit3.spm
  python -m experiments.beit3.retrieval openmoji32
  python -m experiments.beit3.retrieval openmoji32 \\
    --init runs/beit3-openmoji32 --workdir runs/retrieval-pretrained

The same command continues a run that was stopped or killed. At the end the test
split is searched: TR@k is the share of images of which one of the k nearest
texts is theirs, IR@k that of texts. COCO, 5,000 images: the released networks
have TR@1 79.1 and IR@1 61.4 (base), 82.1 and 63.4 (large); not run here.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import results
from experiments.beit3 import finetuning, model
from experiments.beit3.batches import Pairs, retrieval_batches
from experiments.beit3.finetuning import Loss, Task, Tuned
from experiments.beit3.retrieval_config import RETRIEVALS, Retrieval
from experiments.cli import command_line
from experiments.results import Claim, Result, Row
from jaxgen import data
from jaxgen.data.sentencepiece import PAD_TOKEN
from jaxgen.data.transforms import Box, render
from jaxgen.masked import contrastive_loss, retrieval_recalls
from jaxgen.nn.beit3_tasks import Retrieval as DualEncoder
from jaxgen.types import Key, PyTree

TITLE = "BEiT-3 retrieval (released README)"
COLUMNS = ("TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10")
_COMMAND = "python -m experiments.beit3.retrieval"
# Configuration -> row and `COLUMNS`, the release's or, of "giant", the paper's.
_ROWS = {
  "coco_base": ("base", "79.1", "", "", "61.4", "", ""),
  "coco_large": ("large", "82.1", "", "", "63.4", "", ""),
  "coco_giant": ("giant", "84.8", "96.5", "98.3", "67.2", "87.7", "92.8"),
  "flickr30k_base": ("Flickr30k, base", "96.3", "", "", "86.2", "", ""),
  "flickr30k_large": ("Flickr30k, large", "97.2", "", "", "88.1", "", ""),
  "flickr30k_giant": (
    *("Flickr30k, giant", "98.0", "100.0", "100.0"),
    *("90.3", "98.7", "99.5"),
  ),
}
ROWS = (
  *(
    Row(row, dict(zip(COLUMNS, paper, strict=True)), f"{_COMMAND} {name}")
    for name, (row, *paper) in _ROWS.items()
  ),
  Row("from scratch", {}, f"{_COMMAND} openmoji32"),
  Row("pre-trained", {}, f"{_COMMAND} openmoji32 --init RUN"),
)
CLAIMS = (
  *(
    Claim(
      f"a larger network is better ({column})",
      ("base", column),
      ("large", column),
    )
    for column in ("TR@1", "IR@1")
  ),
  *(
    Claim(
      f"masked data modelling helps retrieval ({column})",
      ("from scratch", column),
      ("pre-trained", column),
    )
    for column in ("TR@1", "IR@1", "TR@10", "IR@10")
  ),
)
NOTE = (
  "\nTR@k is the share of the test images of which one of the k nearest texts "
  "is theirs, IR@k that of texts; of COCO's 5,000 where nothing else is said. "
  "The giant network's numbers are the paper's, after contrastive training on "
  "the pairs of pre-training; without that TR@1 is 82.7 and IR@1 65.1 on COCO, "
  "97.5 and 89.1 on Flickr30k. Its weights are not released. "
  "The last two rows are ours, of small networks that search emoji by their "
  "names; `python -m experiments.beit3.replica` runs them with several seeds.\n"
)
TASK = Task(
  "retrieval",
  Retrieval,
  RETRIEVALS,
  lambda config: DualEncoder(model.make_trunk(config)),
)


def train(config: Retrieval) -> Path:
  """Trains to `config.steps`, then searches the test split.

  Returns:
    The workdir, with checkpoints/, tokenizer.json, metrics.jsonl, loss.png and
    a result file.
  """
  timer = results.Timer()
  config = finetuning.started(config)
  pairs = Pairs(config, config.split)
  workdir = finetuning.train(
    TASK,
    config,
    pairs,
    partial(finetuning.make_step, TASK, make_loss(config), config),
    ("image", "tokens"),
    lambda config, tokenizer: retrieval_batches(config, pairs, tokenizer),
  )
  if jax.process_count() == 1:
    result = measure(finetuning.load(TASK, str(workdir)), timer)
    print(f"saved: {results.save(result, workdir)}")
    print(", ".join(f"{name} {cell}" for name, cell in result.ours.items()))
  return workdir


def make_loss(config: Retrieval) -> Loss:
  """`contrastive_loss` over the global batch; also logs the scale."""
  network = TASK.network(config)

  def loss_fn(params: PyTree, key: Key, batch: Any):
    tokens = batch["tokens"]
    found: Any = network.apply(
      {"params": params},
      batch["image"],
      tokens,
      tokens == PAD_TOKEN,
      deterministic=False,
      rngs={"drop_path": key},
    )
    images, texts, scale = found
    loss, metrics = contrastive_loss(images, texts, scale)
    return loss, metrics | {"scale": scale}

  return loss_fn


def search(
  config: Retrieval,
  params: PyTree,
  tokenizer: data.TextTokenizer,
  batch_size: int = 64,
) -> tuple[dict[str, float], int, int]:
  """Recalls in the test split, and how many images and texts it has.

  Images are scaled to the network's size, not cropped, as in the original.
  """
  network = TASK.network(config)
  pairs = Pairs(config, config.test_split)
  apply = partial(network.apply, {"params": params})
  of_images = jax.jit(lambda x: apply(x, method="of_images"))
  of_texts = jax.jit(lambda t: apply(t, t == PAD_TOKEN, method="of_texts"))

  def whole(example: dict[str, Any]) -> dict[str, Any]:
    image = example["image"]
    height, width, _ = image.shape
    box = Box(0, 0, height, width)
    return {"image": render(image, box, config.image_size)}

  images = [
    np.asarray(of_images(batch["image"]))[batch["mask"]]
    for batch in data.eval_batches(pairs, batch_size, None, transform=whole)
  ]
  captions = list(pairs.texts())
  partners = np.repeat(np.arange(len(captions)), [len(c) for c in captions])
  tokens = tokenizer([text for texts in captions for text in texts])
  vectors = []
  for start in range(0, len(tokens), batch_size):
    part = tokens[start : start + batch_size]
    filled = np.resize(part, (batch_size, part.shape[1]))
    vectors.append(np.asarray(of_texts(filled))[: len(part)])
  found = retrieval_recalls(
    jnp.asarray(np.concatenate(images)),
    jnp.asarray(np.concatenate(vectors)),
    jnp.asarray(partners),
  )
  recalls = {name: float(share) for name, share in found.items()}
  return recalls, len(captions), len(tokens)


def measure(tuned: Tuned, timer: results.Timer) -> Result:
  """The result of a network, in the row that it belongs to."""
  config = tuned.config
  recalls, images, texts = search(*tuned)
  names = {"TR": "text_recall", "IR": "image_recall"}
  values = {}
  for column in COLUMNS:
    kind, k = column.split("@")
    values[column] = 100 * recalls[f"{names[kind]}_{k}"]
  small = "pre-trained" if config.init else "from scratch"
  return Result(
    TITLE,
    _ROWS.get(config.name, (small,))[0],
    {name: f"{value:.1f}" for name, value in values.items()},
    values,
    finetuning.fields_of(config),
    f"{config.steps} steps of {config.batch_size}; {images} images and {texts} "
    f"texts of {config.test_split}",
    timer.seconds(),
  )


if __name__ == "__main__":
  named = {name: (name, c) for name, c in RETRIEVALS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
