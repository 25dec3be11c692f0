"""Pre-trains BEiT-3: masked data modelling of images, texts and pairs.

  python -m experiments.beit3.pretrain giant --tokenizer VQKD --spm beit3.spm \\
    --dtype bfloat16 --remat --fsdp 8
  python -m experiments.dvae.train openmoji64
  python -m experiments.beit3.pretrain openmoji32 \\
    --tokenizer runs/dvae-openmoji64

The same command continues a run that was stopped or killed. The paper's giant
network saw a million batches of 6,144; its code, its weights and most of its
data are not public; not run here. The released base and large networks were
trained on other data, by a recipe that is not published.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import tokenizers
from experiments.beit3 import config as configs
from experiments.beit3 import model
from experiments.beit3.batches import (
  Pairs,
  pretraining_batches,
  read_tokenizer,
)
from experiments.beit3.config import Pretrain
from experiments.cli import command_line
from experiments.fitting import fit
from experiments.tokenizers import Tokenizer
from jaxgen import training
from jaxgen.data.sentencepiece import PAD_TOKEN
from jaxgen.masked import masked_data_loss, masked_places, most_masked
from jaxgen.nn.beit3_tasks import MaskedDataModel
from jaxgen.nn.packing import pack_texts
from jaxgen.nn.vit import chosen
from jaxgen.training.layer_decay import layer_decay_adamw, warmed_up_cosine
from jaxgen.types import Array, Key, PyTree

KEEP = (
  *("image_image", "image_second", "image_mask"),
  *("text_tokens", "text_masked", "text_word_mask"),
  *("pair_image", "pair_second", "pair_mask"),
  *("pair_tokens", "pair_masked", "pair_word_mask"),
)


def train(config: Pretrain) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, tokenizer.json, metrics.jsonl and loss.png.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/beit3-{config.name}")
  visual = load_tokenizer(config)
  pairs = Pairs(config, config.split)
  text = read_tokenizer(config, workdir, pairs)
  size = visual.factor * config.grid
  return fit(
    config,
    "beit3_pretrain",
    workdir,
    partial(init_state, config, visual),
    partial(make_step, config, visual),
    keep=KEEP,
    batches=lambda config: pretraining_batches(config, pairs, text, size),
  )


def load_tokenizer(config: Pretrain) -> Tokenizer:
  """The frozen image tokenizer.

  Raises:
    ValueError: none is named, or it is of grey images.
  """
  if not config.tokenizer:
    raise ValueError(
      "pre-training needs --tokenizer, such as a workdir of experiments.dvae; "
      "see experiments/tokenizers.py"
    )
  tokenizer = tokenizers.load(config.tokenizer)
  if tokenizer.channels != 3:
    raise ValueError(
      f"the tokenizer takes images of {tokenizer.channels} channels, not 3"
    )
  return tokenizer


def make_optimizer(config: Pretrain) -> optax.GradientTransformation:
  """AdamW, its gradient clipped, one rate for all layers."""
  rate = warmed_up_cosine(
    config.lr, config.min_lr, config.warmup, config.decay_steps
  )
  return layer_decay_adamw(
    rate,
    config.num_layers,
    weight_decay=config.weight_decay,
    b2=config.b2,
    eps=config.eps,
    clip_norm=config.clip_norm,
  )


def init_state(
  config: Pretrain, visual: Tokenizer, key: Key, run_key: Key
) -> training.TrainState:
  """The state before the first step; it holds nothing of the tokenizer."""
  network = MaskedDataModel(model.make_trunk(config), visual.vocabulary)
  x = jnp.zeros((1, *[config.image_size] * 2, 3))
  tokens = jnp.zeros((1, config.max_length), int)
  params = jax.jit(network.init)(key, x, tokens)["params"]
  return training.init_state(params, make_optimizer(config), run_key)


def make_step(
  config: Pretrain, visual: Tokenizer, mesh: Mesh
) -> training.TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`.

  The tokenizer's parameters are arguments of it, and no constants. With
  `accumulate` the tokenizer still sees the whole batch at once: it needs no
  gradient. Micro-batches have as many masked patches each, but not as many
  masked words, whose loss is then a mean of means.
  """
  # No average: decay 0 leaves the parameters themselves.
  step = training.make_train_step(
    make_loss(config, visual, mesh.shape["data"] * mesh.shape["fsdp"]),
    make_optimizer(config),
    training.constant_ema(0.0),
    mesh,
    accumulate=config.accumulate,
  )

  def with_codes(
    state: training.TrainState, batch: Any, tokenizer: PyTree
  ) -> tuple[training.TrainState, dict[str, Array]]:
    for kind in ("image", "pair"):
      second = batch.pop(f"{kind}_second")
      batch[f"{kind}_codes"] = visual.encode(tokenizer, second)
    return step(state, batch)

  compiled = jax.jit(with_codes, donate_argnums=0)
  everywhere = NamedSharding(mesh, PartitionSpec())
  tokenizer = jax.device_put(visual.params, everywhere)
  return lambda state, batch: compiled(state, batch, tokenizer)


def make_loss(
  config: Pretrain, visual: Tokenizer, groups: int = 1
) -> Callable[[PyTree, Key, Any], tuple[Array, dict[str, Array]]]:
  """The sum of `masked_data_loss` of images, of texts and of pairs.

  Logits are taken where something is masked.

  Args:
    config: of the pre-training.
    visual: the image tokenizer.
    groups: devices that a batch is split over.

  Returns:
    (params, key, batch) -> (loss, metrics), those of `masked_data_loss` after
    "image_", "text_" or "pair_", with `config.room` also "cut". A batch has the
    arrays of `KEEP`, but "codes", visual tokens, for "second".
  """
  network = MaskedDataModel(model.make_trunk(config), visual.vocabulary)

  def loss_of(kind: str, params: PyTree, key: Key, batch: Any):
    of = lambda name: batch.get(f"{kind}_{name}")
    mask, tokens, word_mask = of("mask"), of("tokens"), of("word_mask")
    patches = words = padding = None
    found: dict[str, Array] = {}
    if mask is not None:
      patches, masked = masked_places(mask, config.num_masked)
    if tokens is not None:
      padding = tokens == PAD_TOKEN
      if config.room:
        padding = pack_texts(padding, config.room, groups)
        word_mask = word_mask & ~padding.padding
        found["cut"] = padding.cut / len(tokens)
      share = config.text_share if mask is None else config.pair_share
      most = most_masked(tokens.shape[1], share)
      words, hidden = masked_places(word_mask, most)
    logits: Any = network.apply(
      {"params": params},
      of("image"),
      of("masked"),
      padding,
      patch_mask=mask,
      patches=patches,
      words=words,
      deterministic=False,
      rngs={"drop_path": key},
    )
    image = text = None
    if patches is not None:
      image = (logits[0], chosen(of("codes"), patches), masked)
    if words is not None:
      text = (logits[1], chosen(tokens, words), hidden)
    loss, parts = masked_data_loss(image, text)
    return loss, {f"{kind}_{n}": v for n, v in (found | parts).items()}

  def loss_fn(params: PyTree, key: Key, batch: Any):
    total, metrics = jnp.zeros(()), dict[str, Array]()
    for number, kind in enumerate(("image", "text", "pair")):
      own = jax.random.fold_in(key, number)
      loss, found = loss_of(kind, params, own, batch)
      total += loss
      metrics |= found
    return total, metrics

  return loss_fn


if __name__ == "__main__":
  named = {name: (name, c) for name, c in configs.PRETRAININGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
