"""Pre-trains BEiT: masked image modelling with a frozen tokenizer.

  python -m experiments.beit.pretrain base_plain_in1k --tokenizer DALLE \\
    --dtype bfloat16 --workdir runs/beit-base
  python -m experiments.beit.pretrain mnist5k --tokenizer runs/dvae-mnist5k

DALLE is a folder with the released encoder.pkl and decoder.pkl. The same
command continues a run that was stopped or killed. The paper trained BEiT-B for
800 epochs of ImageNet-1k on 16 V100 for about five days; not run here. A
released log of 300 epochs (with biases and LayerScale) ends at accuracy 0.0496
and loss 6.30. `mnist5k` takes minutes on two CPU cores.
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
from experiments.beit import config as configs
from experiments.beit import model
from experiments.beit.batches import pretraining_batches
from experiments.beit.config import Pretrain
from experiments.cli import command_line
from experiments.fitting import fit, image_examples
from experiments.tokenizers import Tokenizer
from jaxgen import training
from jaxgen.masked import (
  image_patches,
  masked_image_loss,
  masked_pixel_loss,
  masked_places,
  patch_aggregation_loss,
)
from jaxgen.nn.vit import chosen
from jaxgen.training.layer_decay import layer_decay_adamw, warmed_up_cosine
from jaxgen.types import Array, Key, PyTree


def train(config: Pretrain) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl and loss.png.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/beit-{config.name}")
  tokenizer = load_tokenizer(config)
  size = tokenizer.factor * config.grid if tokenizer else 0
  return fit(
    config,
    "beit_pretrain",
    workdir,
    partial(init_state, config, tokenizer),
    partial(make_step, config, tokenizer),
    keep=("image", "second", "mask") if tokenizer else ("image", "mask"),
    batches=partial(pretraining_batches, second_size=size),
    examples=image_examples,
  )


def load_tokenizer(config: Pretrain) -> Tokenizer | None:
  """The frozen tokenizer; None where pixels are predicted.

  Raises:
    ValueError: none is named, or it is of other images.
  """
  if config.target == "pixels":
    return None
  if not config.tokenizer:
    raise ValueError(
      "pre-training needs --tokenizer, a workdir of experiments.dvae or "
      "experiments.beit2.train_vqkd, a folder with DALL-E's encoder.pkl and "
      "decoder.pkl, or a file of BEiT v2's; or --target pixels"
    )
  tokenizer = tokenizers.load(config.tokenizer)
  if tokenizer.channels != config.image_channels:
    raise ValueError(
      f"the tokenizer takes images of {tokenizer.channels} channels, the "
      f"network {config.image_channels}"
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
    clip_norm=config.clip_norm,
  )


def init_state(
  config: Pretrain, tokenizer: Tokenizer | None, key: Key, run_key: Key
) -> training.TrainState:
  """The state before the first step; it holds nothing of the tokenizer."""
  network = model.make_mim(config, tokenizer.vocabulary if tokenizer else 0)
  x = jnp.zeros((1, *[config.image_size] * 2, config.image_channels))
  params = jax.jit(network.init)(key, x)["params"]
  return training.init_state(params, make_optimizer(config), run_key)


def make_step(
  config: Pretrain, tokenizer: Tokenizer | None, mesh: Mesh
) -> training.TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`.

  A batch has `image`, `mask` and, with a tokenizer, `second`. The tokenizer's
  parameters are arguments of a function of its own, and no constants.
  """
  # No average: decay 0 leaves the parameters themselves.
  step = training.make_train_step(
    make_loss(config, tokenizer.vocabulary if tokenizer else 0),
    make_optimizer(config),
    training.constant_ema(0.0),
    mesh,
    config.accumulate,
  )
  if tokenizer is None:
    return step
  everywhere = NamedSharding(mesh, PartitionSpec())
  split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  frozen = jax.device_put(tokenizer.params, everywhere)
  encode = jax.jit(tokenizer.encode, out_shardings=split)

  def with_tokens(state: training.TrainState, batch: Any):
    tokens = encode(frozen, batch["second"])
    kept = {name: batch[name] for name in ("image", "mask")}
    return step(state, kept | {"tokens": tokens})

  return with_tokens


def make_loss(
  config: Pretrain, vocabulary: int
) -> Callable[[PyTree, Key, Any], tuple[Array, dict[str, Array]]]:
  """Cross-entropy of visual tokens, or squared error of pixels.

  Predictions are made where they count: where `recover` is "masked" no image of
  a batch may have more than `num_masked` masked patches.

  Args:
    config: of the pre-training.
    vocabulary: of the tokens.

  Returns:
    (params, key, batch) -> (loss, metrics): the share `masked`, and of tokens
    the `accuracy` and `most_common`, the accuracy of who always says the token
    that is most frequent in the batch; under patch aggregation also its parts.
    A batch has `image`, `mask` and, where they are predicted, `tokens`.
  """
  network = model.make_mim(config, vocabulary)

  def loss_fn(params: PyTree, key: Key, batch: Any):
    x = model.normalized(batch["image"], config.normalize)
    mask = batch["mask"].reshape(len(x), -1)
    share = mask.mean(dtype=jnp.float32)
    places, counted = None, jnp.ones_like(mask)
    if config.recover == "masked":
      places, counted = masked_places(mask, config.num_masked)
    predicted: Any = network.apply(
      {"params": params}, x, mask, False, places, rngs={"drop_path": key}
    )
    if config.target == "pixels":
      patches = chosen(image_patches(x, config.patch_size), places)
      return masked_pixel_loss(predicted, patches, counted), {"masked": share}
    tokens = chosen(batch["tokens"], places)
    if config.early_layer:
      loss, metrics = patch_aggregation_loss(predicted, tokens, counted)
    else:
      loss, metrics = masked_image_loss(predicted, tokens, counted)
    weight = counted.ravel().astype(jnp.float32)
    found = jnp.bincount(tokens.ravel(), weight, length=vocabulary)
    common = found.max() / jnp.maximum(found.sum(), 1.0)
    return loss, metrics | {"masked": share, "most_common": common}

  return loss_fn


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
