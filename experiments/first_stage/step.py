"""One step of two optimizers: the autoencoder's, then the discriminator's."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from experiments.first_stage import model
from experiments.first_stage.config import Config
from jaxgen import training
from jaxgen.nn.autoencoder import FirstStage, last_convolution, last_kernel
from jaxgen.nn.discriminators import NLayerDiscriminator
from jaxgen.training import autoencoder_losses as losses
from jaxgen.training.step import Metrics
from jaxgen.types import Array, Key, PyTree

DISC_LOSSES = {"hinge": losses.hinge_d_loss, "vanilla": losses.vanilla_d_loss}
# (loss, (metrics, batch statistics)).
Outcome = tuple[Array, tuple[Metrics, PyTree]]


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """Adam with LDM's betas (0.5, 0.9), of either network."""
  return training.adam(
    config.lr, b1=0.5, b2=0.9, decay_steps=config.decay_steps or None
  )


def init_state(config: Config, key: Key, run_key: Key) -> training.TrainState:
  """The state before the first step."""
  return as_state(config, *model.init_params(config, key), run_key)


def as_state(
  config: Config, params: PyTree, stats: PyTree, run_key: Key
) -> training.TrainState:
  """The state before the first step, of given parameters.

  `params` and `opt_state` hold "autoencoder" and "discriminator", `ema` the
  autoencoder alone, `memory` the discriminator's batch statistics.
  """
  optimizer = make_optimizer(config)
  state = training.init_state(params["autoencoder"], optimizer, run_key, stats)
  of_disc = optimizer.init(params["discriminator"])
  opt_state = {"autoencoder": state.opt_state, "discriminator": of_disc}
  return dataclasses.replace(state, params=params, opt_state=opt_state)


def make_step(
  config: Config, perceptual: Partial, mesh: Mesh
) -> training.TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`.

  As PyTorch Lightning 1.4 runs the original's two optimizers: the autoencoder
  is updated; the discriminator is then updated on the same images and on what
  the new autoencoder, with new noise, makes of them. Every look of the
  discriminator, three a step, leaves its trace in the batch statistics.

  The state passed in is donated: use the returned one only.

  Args:
    config: of the experiment.
    perceptual: from `model.make_perceptual`.
    mesh: the mesh on which state and batch live.
  """
  optimizer = make_optimizer(config)
  autoencoder = model.make_autoencoder(config)
  discriminator = model.make_discriminator(config)
  of_autoencoder = autoencoder_loss(config, autoencoder, discriminator)
  of_discriminator = discriminator_loss(config, discriminator)
  replicated = NamedSharding(mesh, PartitionSpec())
  whole = lambda tree: jax.lax.with_sharding_constraint(tree, replicated)

  def train_step(state, batch, distance):
    x, n, stats = batch["image"], state.step, state.memory
    keys = jax.random.split(jax.random.fold_in(state.key, n))

    def update(name, loss_fn, *rest):
      before, opt_state = state.params[name], state.opt_state[name]
      grad_fn = jax.value_and_grad(
        lambda params: loss_fn(whole(params), *rest), has_aux=True
      )
      (loss, aux), grads = grad_fn(before)
      updates, opt_state = optimizer.update(grads, opt_state, before)
      return optax.apply_updates(before, updates), opt_state, grads, loss, aux

    judge = (whole(state.params["discriminator"]), stats)
    first, first_opt, first_grads, loss, (metrics, stats) = update(
      "autoencoder", of_autoencoder, judge, distance, keys[0], x, n
    )
    z, _, _ = model.encode(config, autoencoder, whole(first), keys[1], x)
    x_hat = model.decode(autoencoder, whole(first), z)
    second, second_opt, second_grads, _, (judged, stats) = update(
      "discriminator", of_discriminator, stats, x, x_hat, n
    )
    ema = first
    if config.ema_decay:
      decay = training.warmed_up_ema(config.ema_decay)(n + 1)
      ema = training.update_ema(state.ema, first, decay)
    new_state = dataclasses.replace(
      state,
      step=n + 1,
      params={"autoencoder": first, "discriminator": second},
      ema=ema,
      opt_state={"autoencoder": first_opt, "discriminator": second_opt},
      memory=stats,
    )
    norm = optax.tree.norm((first_grads, second_grads))
    metrics |= judged | {"loss": loss, "grad_norm": norm}
    places = training.state_sharding(mesh, new_state)
    return (
      jax.lax.with_sharding_constraint(new_state, places),
      jax.lax.with_sharding_constraint(metrics, replicated),
    )

  jitted = jax.jit(train_step, donate_argnums=0)
  weights = training.shard_state(mesh, perceptual)
  return lambda state, batch: jitted(state, batch, weights)


def autoencoder_loss(
  config: Config, autoencoder: FirstStage, discriminator: NLayerDiscriminator
) -> Callable[..., Outcome]:
  """The loss of `jaxgen.training.autoencoder_losses`.

  Returns:
    (parameters, (the discriminator's, its statistics), perceptual distance,
    key, x, step) -> (loss, (metrics, statistics)).
  """
  reduce = losses.mean_error if config.num_codes else losses.laplace_nll

  def loss_fn(params, judge, perceptual, key, x, step):
    z, regularisation, metrics = model.encode(
      config, autoencoder, params, key, x
    )

    def errors(x_hat):
      if not config.perceptual_weight:
        return losses.reconstruction_errors(x, x_hat)
      distance = config.perceptual_weight * perceptual(x, x_hat)
      return losses.reconstruction_errors(x, x_hat, distance)

    def generator(x_hat):
      logits, stats = look(discriminator, judge[0], judge[1], x_hat)
      return losses.generator_loss(logits), stats

    features = model.decode_features(autoencoder, params, z)
    x_hat = last_convolution(params, features)
    # The weight has no gradient, and shall not cost one.
    fixed, fixed_features = jax.lax.stop_gradient((params, features))
    d_weight = losses.adaptive_weight(
      lambda kernel: last_convolution(fixed, fixed_features, kernel),
      last_kernel(fixed),
      lambda x_hat: reduce(errors(x_hat)),
      lambda x_hat: generator(x_hat)[0],
      config.disc_weight,
    )
    found = errors(x_hat)
    nll = reduce(found)
    g_loss, stats = generator(x_hat)
    weight = losses.delayed(d_weight, step, config.disc_start)
    metrics |= {
      "rec": found.mean(),
      "l1": jnp.abs(x - x_hat).mean(),
      "nll": nll,
      "g_loss": g_loss,
      "d_weight": d_weight,
    }
    return nll + regularisation + weight * g_loss, (metrics, stats)

  return loss_fn


def discriminator_loss(
  config: Config, discriminator: NLayerDiscriminator
) -> Callable[..., Outcome]:
  """The delayed hinge or vanilla loss.

  Returns:
    (parameters, statistics, x, x_hat, step) -> (loss, (metrics, statistics)).
  """

  def loss_fn(params, stats, x, x_hat, step):
    real, stats = look(discriminator, params, stats, x)
    fake, stats = look(discriminator, params, stats, x_hat)
    loss = DISC_LOSSES[config.disc_loss](real, fake)
    loss = losses.delayed(loss, step, config.disc_start)
    metrics = {
      "disc_loss": loss,
      "logits_real": real.mean(),
      "logits_fake": fake.mean(),
    }
    return loss, (metrics, stats)

  return loss_fn


def look(
  discriminator: NLayerDiscriminator, params: PyTree, stats: PyTree, x: Array
) -> tuple[Array, PyTree]:
  """Logits of images in training, and the statistics after them."""
  variables = {"params": params, "batch_stats": stats}
  logits: Any
  logits, new = discriminator.apply(variables, x, mutable=["batch_stats"])
  return logits, new["batch_stats"]
