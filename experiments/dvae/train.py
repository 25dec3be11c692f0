"""Trains a discrete autoencoder, whose codes are BEiT's visual tokens.

  python -m experiments.dvae.train dalle --workdir runs/dalle
  python -m experiments.dvae.train openmoji64 --dtype bfloat16  # one GPU
  python -m experiments.dvae.train mnist5k  # 2 CPU cores, 3 minutes

The same command continues a run that was stopped or killed. DALL-E's was
trained for 3M updates of 512 images. BEiT's own reaches a mean absolute error
of 0.0880, DALL-E's 0.0856 (Bao et al. 2022, App. C). Neither was run here.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import tokenizers
from experiments.cli import command_line
from experiments.dvae import config as configs
from experiments.dvae import model
from experiments.dvae.batches import batches
from experiments.dvae.config import Config
from experiments.dvae.step import init_usage, make_loss, make_optimizer
from experiments.first_stage.reconstruction import Batch, grid
from experiments.fitting import fit, image_examples
from experiments.models import restore_run
from experiments.plots import save_grid
from experiments.tokenizers import Tokenizer
from jaxgen import data, training
from jaxgen.nn.quantizers import usage_of
from jaxgen.types import Key


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl, loss.png, and, of the test
    split, reconstruction.json and reconstructions.png: its first images, each
    above what its tokens are decoded to.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/dvae-{config.name}")
  optimizer = make_optimizer(config)

  def init(key: Key, run_key: Key) -> training.TrainState:
    params = model.init_params(config, key)
    memory = init_usage(config)
    return training.init_state(params, optimizer, run_key, memory)

  decay = training.constant_ema(config.ema_decay)
  loss = make_loss(config)
  step = partial(training.make_train_step, loss, optimizer, decay)
  fit(
    config,
    "dvae",
    workdir,
    init,
    step,
    batches=batches,
    examples=image_examples,
  )
  if jax.process_count() == 1:
    show(workdir)
  return workdir


class Reconstruction(NamedTuple):
  """How a tokenizer does on images.

  Attributes:
    shown: the first images and what their tokens are decoded to, each above
      the other, rows of 8; uint8.
    l1: mean absolute error, of pixels in [0, 1].
    used: share of the codes that occur.
    perplexity: of the codes.
    tokens: how many there were.
  """

  shown: np.ndarray
  l1: float
  used: float
  perplexity: float
  tokens: int


def reconstruct(
  found: Tokenizer, source: Any, size: int, batch_size: int = 64
) -> Reconstruction:
  """Encodes images to tokens and decodes these.

  Args:
    found: a tokenizer that can decode.
    source: of `jaxgen.data.load`.
    size: height and width that images are cropped to.
    batch_size: images at a time.
  """
  if found.decode is None:
    raise ValueError("this tokenizer cannot decode")
  encode, decode = jax.jit(found.encode), jax.jit(found.decode)
  counts = np.zeros(found.vocabulary, np.int64)
  errors: list[np.ndarray] = []
  shown: list[np.ndarray] = []
  for batch in data.eval_batches(source, batch_size, size):
    tokens = encode(found.params, batch["image"])
    x_hat = np.asarray(decode(found.params, tokens))[batch["mask"]]
    x = batch["image"][batch["mask"]]
    tokens = np.asarray(tokens)[batch["mask"]]
    counts += np.bincount(tokens.ravel(), minlength=len(counts))
    errors.append(np.abs(x_hat - x).mean((1, 2, 3)) / 2)
    shown = shown or [grid(Batch(data.to_uint8(x), data.to_uint8(x_hat), {}))]
  used, perplexity = map(float, usage_of(jnp.asarray(counts)))
  l1 = float(np.concatenate(errors).mean())
  return Reconstruction(shown[0], l1, used, perplexity, int(counts.sum()))


def show(workdir: Path) -> Reconstruction:
  """Measures and draws reconstructions; says if the codes have collapsed."""
  config, _ = restore_run(workdir, Config)
  source = data.load(config.dataset, config.test_split, config.data_dir or None)
  found = reconstruct(tokenizers.load(workdir), source, config.image_size)
  scale = max(1, 64 // config.image_size)
  save_grid(workdir / "reconstructions.png", found.shown, 8, scale)
  values = {k: v for k, v in found._asdict().items() if k != "shown"}
  text = json.dumps(values, indent=2) + "\n"
  (workdir / "reconstruction.json").write_text(text)
  print(
    f"{config.test_split}: mean absolute error {found.l1:.4f}, "
    f"{found.used:.0%} of {config.num_tokens} codes used, perplexity "
    f"{found.perplexity:.4g}"
  )
  if said := model.collapse(config.num_tokens, found.perplexity, found.tokens):
    print(said)
  print(f"saved: {workdir / 'reconstructions.png'}, reconstruction.json")
  return found


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
