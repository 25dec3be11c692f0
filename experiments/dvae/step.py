"""Loss and optimizer of discrete autoencoders, and the use of their codes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.dvae import model
from experiments.dvae.config import Config
from jaxgen import training
from jaxgen.nn.dvae import tokens_of
from jaxgen.nn.quantizers import usage_of
from jaxgen.training.dvae_losses import (
  discrete_vae_loss,
  dvae_loss,
  gumbel_softmax,
)
from jaxgen.training.optimizers import cosine_between
from jaxgen.types import Array


class Usage(NamedTuple):
  """What the loss remembers, of the latest steps.

  Attributes:
    step: updates made so far, int32 `[]`.
    last: when each code was last used, int32 `[K]`.
    shares: running means of the codes' shares, `[K]`.
  """

  step: Array
  last: Array
  shares: Array


def init_usage(config: Config) -> Usage:
  """Before the first step no code was used."""
  k = config.num_tokens
  return Usage(
    jnp.zeros((), jnp.int32),
    jnp.full(k, -config.window, jnp.int32),
    jnp.zeros(k),
  )


def update_usage(usage: Usage, tokens: Array, window: int) -> Usage:
  """After a step with tokens `[B, h, w]`."""
  counts = jnp.bincount(tokens.reshape(-1), length=len(usage.last))
  last = jnp.where(counts > 0, usage.step, usage.last)
  shares = usage.shares + (counts / tokens.size - usage.shares) / window
  return Usage(usage.step + 1, last, shares)


def measure_usage(usage: Usage, window: int) -> tuple[Array, Array]:
  """(share of codes used in the last `window` steps, perplexity), both `[]`.

  The perplexity is of the running means.
  """
  used = jnp.mean((usage.step - usage.last <= window).astype(jnp.float32))
  return used, usage_of(usage.shares)[1]


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """AdamW under half a cosine (Ramesh et al. 2021, App. A.2)."""
  rate = lambda n: cosine_between(n, config.lr, config.lr_end, config.lr_steps)
  return optax.adamw(rate, weight_decay=config.weight_decay)


def make_loss(config: Config) -> training.LossFn:
  """(params, key, batch, usage) -> (loss, metrics, usage)."""
  networks = model.make_networks(config)
  seen = config.window * config.batch_size
  seen *= (config.image_size // config.f) ** 2
  least = model.collapse_below(config.num_tokens, seen)

  def loss_fn(params, key, batch, usage):
    noise_key, sample_key = jax.random.split(key)
    images = batch["image"]
    if config.dequantize:
      u = jax.random.uniform(noise_key, images.shape)
      images = (127.5 * (images + 1) + u) / 128 - 1
    x = model.pixels(networks, images)
    beta = cosine_between(usage.step, 0.0, config.beta, config.beta_steps)
    tau = cosine_between(
      usage.step, config.tau_start, config.tau, config.tau_steps
    )
    logits = model.logits_of(networks, params, x)
    z = gumbel_softmax(sample_key, logits, tau)
    outputs = model.decode(networks, params, z)
    if networks.mapped:
      loss, parts = dvae_loss(x, outputs, logits, beta)
    else:
      loss, parts = discrete_vae_loss(
        x, outputs, logits, beta, config.smooth_l1
      )
    usage = update_usage(usage, tokens_of(logits), config.window)
    used, perplexity = measure_usage(usage, config.window)
    difference = jnp.abs(model.images_of(networks, outputs) - batch["image"])
    metrics = parts | {
      "l1": difference.mean(),
      "beta": beta,
      "tau": tau,
      "used": used,
      "perplexity": perplexity,
      "collapsed": (perplexity < least).astype(jnp.float32),
    }
    return loss, metrics, usage

  return loss_fn
