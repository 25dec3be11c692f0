"""Trains a latent diffusion model around a first stage.

  python -m experiments.ldm.train openmoji --first-stage runs/openmoji_kl_f4 \\
    --workdir runs/openmoji-txt2img
  python -m experiments.ldm.train cin256 --first-stage vq-f4:model.ckpt
  python -m experiments.ldm.train openmoji_small --first-stage ... --smoke

The same command continues a run that was stopped or killed. Checkpoints hold
the first stage too, so that a workdir is all that sampling needs. With
`--cache-latents` the split is encoded once, into WORKDIR/latents.

The paper's models took days to weeks on one A100 (Table 18); none was trained
here. Unlike the release, the average of the parameters includes those of the
network that encodes the condition.
"""

from functools import partial
from pathlib import Path

import jax
import optax
import tyro

from experiments.cli import command_line
from experiments.fitting import fit, image_examples
from experiments.ldm import batches, files, first_stage, latents, model
from experiments.ldm import config as configuration
from experiments.ldm.config import Config
from experiments.ldm.configs import CONFIGS
from jaxgen import training
from jaxgen.types import Key


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """AdamW with a linear warm-up, as PyTorch has it (betas 0.9, 0.999)."""
  rate = optax.constant_schedule(config.lr)
  if config.warmup_steps:
    rate = optax.linear_schedule(0.0, config.lr, config.warmup_steps)
  return optax.adamw(rate, 0.9, 0.999, 1e-8, weight_decay=config.weight_decay)


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl, loss.png,
    first_stage.json and, of a text-to-image model, tokenizer.json.
  """
  training.initialize_distributed()
  config = configuration.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/ldm-{config.name}")
  autoencoder, frozen = first_stage.load(config.first_stage)
  networks = model.make_networks(config, autoencoder)
  tokenize = batches.make_tokenize(config, workdir)
  if jax.process_index() == 0:
    first_stage.write_architecture(workdir / files.FIRST_STAGE, autoencoder)
  nothing = batches.nothing(config, tokenize)
  process = model.make_process(config)
  loss = model.make_loss(config, process, networks, nothing)
  optimizer = make_optimizer(config)

  def init(key: Key, run_key: Key) -> training.TrainState:
    params = model.init_params(config, networks.unet, key)
    memory = model.init_memory(config, frozen)
    return training.init_state(params, optimizer, run_key, memory)

  def stream(config: Config):
    if not config.cache_latents:
      return batches.image_stream(config, tokenize)
    folder = workdir / "latents"
    found = latents.cached(config, autoencoder, frozen, folder)
    return batches.latent_stream(config, tokenize, found)

  decay = training.warmed_up_ema(config.ema_decay)
  step = partial(
    training.make_train_step,
    loss,
    optimizer,
    decay,
    accumulate=config.accumulate,
  )
  keep = ["latent" if config.cache_latents else "image"]
  keep += {"class": ["label"], "text": ["tokens"], "boxes": ["tokens"]}.get(
    config.condition, []
  )
  return fit(
    config,
    "ldm",
    workdir,
    init,
    step,
    keep=keep,
    batches=stream,
    examples=image_examples,
  )


if __name__ == "__main__":
  named = {name: (name, config) for name, config in CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
