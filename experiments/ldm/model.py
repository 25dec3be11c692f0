"""From a configuration to the objects of the library."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.ldm import batches, conditions, files, first_stage, published
from experiments.ldm.config import Config
from experiments.ldm.configs import CONFIGS
from experiments.models import (
  Model,
  read_config,
  restore_run,
  shared_fields,
)
from jaxgen import training
from jaxgen.nn.autoencoder import FirstStage
from jaxgen.nn.ldm_unet import UNet
from jaxgen.types import Array, Key, Network, PyTree


class Networks(NamedTuple):
  """The networks of a latent diffusion model.

  Attributes:
    unet: predicts eps of latents.
    conditioner: encodes the condition and is trained with it; or None.
    autoencoder: the first stage.
  """

  unet: UNet
  conditioner: Any
  autoencoder: FirstStage


def make_process(config: Config) -> jd.DiscreteProcess:
  """The discrete process; the release calls its betas linear."""
  betas = jd.scaled_linear_betas(config.T, config.beta_start, config.beta_end)
  return jd.DiscreteProcess.from_betas(betas)


def make_unet(config: Config) -> UNet:
  """The U-Net."""
  return UNet(
    **shared_fields(config, UNet)
    | {
      "dtype": jnp.dtype(config.dtype),
      "num_classes": None,  # classes are a context
      "out_channels": config.latent_channels,
    }
  )


def make_networks(config: Config, autoencoder: FirstStage) -> Networks:
  """The networks around a first stage.

  Raises:
    ValueError: its latents are not those of the configuration.
  """
  first_stage.check(config, autoencoder)
  conditioner = conditions.make_conditioner(config)
  return Networks(make_unet(config), conditioner, autoencoder)


def init_params(config: Config, unet: UNet, key: Key) -> PyTree:
  """Fresh parameters of `unet` and `conditioner`."""
  unet_key, conditioner_key = jax.random.split(key)
  size = config.latent_size
  x = jnp.zeros((1, size, size, config.latent_channels))
  told: dict[str, Array] = {}
  if config.context_dim is not None:
    told["context"] = jnp.zeros((1, 1, config.context_dim))
  if config.concat_channels:
    told["concat"] = jnp.zeros((1, size, size, config.concat_channels))
  params = jax.jit(unet.init)(unet_key, x, jnp.zeros(1), **told)["params"]
  conditioner = conditions.init_conditioner(config, conditioner_key)
  return {"unet": params, "conditioner": conditioner}


def init_memory(config: Config, first_stage_params: PyTree) -> PyTree:
  """What the loss keeps: the first stage, and the scale of the latents.

  A scale of 0 is still to be found, from the first batch.
  """
  scale = 0.0 if config.scale_by_std else config.latent_scale
  return {"first_stage": first_stage_params, "scale": jnp.float32(scale)}


def make_network(
  config: Config,
  networks: Networks,
  params: PyTree,
  condition: Array | None = None,
  dropout_key: Key | None = None,
) -> Network:
  """The U-Net closed over parameters and condition; it counts t from 0.

  Args:
    config: of the model.
    networks: its networks.
    params: of `unet`, `conditioner` and, for a hole, `first_stage`.
    condition: see `conditions`.
    dropout_key: for training; without it there is no dropout.

  Raises:
    ValueError: the model needs a condition.
  """
  told: tuple[Array | None, Array | None] = (None, None)
  if config.condition != "none":
    if condition is None:
      raise ValueError(f"{config.name} needs a condition: {config.condition}")
    told = conditions.encode(config, networks.autoencoder, params, condition)

  def network(x: Array, t: Array) -> Array:
    output = networks.unet.apply(
      {"params": params["unet"]},
      x,
      t - 1,
      *told,
      deterministic=dropout_key is None,
      rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return jnp.asarray(output)

  return network


def scale_of(z: Array) -> Array:
  """1 / std of all entries of latents (Rombach et al. 2022, App. G)."""
  return 1 / jnp.std(z, ddof=1)


def make_loss(
  config: Config, process: jd.DiscreteProcess, networks: Networks, nothing: Any
) -> Callable[..., Any]:
  """The training loss (params, key, batch, memory) of latents.

  Args:
    config: of the model.
    process: the forward process.
    networks: its networks.
    nothing: see `batches.nothing`.
  """
  autoencoder = networks.autoencoder

  def loss(params, key, batch, memory):
    z_key, condition_key, loss_key, dropout_key = jax.random.split(key, 4)
    moments = batch.get("latent")
    if moments is None:
      moments = first_stage.encode(
        autoencoder, memory["first_stage"], batch["image"]
      )
    z = first_stage.draw(autoencoder, z_key, moments)
    scale = memory["scale"]
    if config.scale_by_std:
      scale = jnp.where(scale > 0, scale, scale_of(z))
    z = scale * z
    condition = conditions.of_batch(config, condition_key, batch, nothing)
    known = {**params, "first_stage": memory["first_stage"]}
    network = make_network(config, networks, known, condition, dropout_key)
    value = eps_loss(process, network, loss_key, z, config.loss)
    return value, {"latent_std": z.std()}, {**memory, "scale": scale}

  return loss


def eps_loss(
  process: jd.DiscreteProcess, network: Network, key: Key, z: Array, norm: str
) -> Array:
  """E |eps - eps_theta(z_t, t)|, squared if norm is "l2", else as it is.

  Rombach et al. 2022, Eq. 2, and, with "l1", the release's alternative.
  """
  if norm == "l2":
    return jd.simple_loss(process, network, key, z)
  t_key, eps_key = jax.random.split(key)
  t = jd.random_times(process, t_key, len(z))
  z_t, eps = jd.q_sample(process, eps_key, z, t)
  return jnp.abs(eps - network(z_t, t)).mean()


def load(weights: str) -> tuple[Config, Networks, PyTree]:
  """A model: a workdir of `train`, a folder of `export`, or NAME:PATH.

  Args:
    weights: a workdir or folder, or such as "cin256:model.ckpt", NAME:PATH of
      a released file.

  Returns:
    Configuration, networks and the parameters of `unet`, `conditioner` and
    `first_stage`, with the `scale` of the latents.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: there is no such name, or the file holds another model.
  """
  path = Path(weights)
  if (path / "checkpoints").is_dir():
    config, params = restore_run(path, Config)
    autoencoder = first_stage.read_architecture(path / files.FIRST_STAGE)
    memory = training.restore_params(path / "checkpoints", "memory")
    networks = make_networks(config, autoencoder)
    return config, networks, {**params, **memory}
  if files.is_folder(path):
    config = read_config(path, files.read_fields(path), Config)
    config = dataclasses.replace(config, remat=False)  # nothing is trained
    autoencoder = first_stage.read_architecture(path / files.FIRST_STAGE)
    autoencoder = autoencoder.clone(remat=False)
    networks = make_networks(config, autoencoder)
    sizes = vars(config) | {
      f"first_stage.{field.name}": getattr(autoencoder, field.name)
      for field in dataclasses.fields(autoencoder)
    }
    shapes_of = partial(jax.eval_shape, partial(init_all, config, networks))
    return config, networks, files.read_params(path, sizes, shapes_of)
  name, _, file = weights.partition(":")
  if not file or name not in CONFIGS:
    raise FileNotFoundError(
      f"{weights} is neither a workdir, a folder of experiments.ldm.export, "
      "nor NAME:PATH of a released file, with NAME one of "
      f"{', '.join(CONFIGS)}"
    )
  config = CONFIGS[name]
  if config.autoencoder not in first_stage.AUTOENCODERS:
    raise ValueError(f"{name} was never released: train it")
  networks = make_networks(config, first_stage.AUTOENCODERS[config.autoencoder])
  params = published.load(file, config, make_process(config), *networks)
  return config, networks, params


def init_all(config: Config, networks: Networks) -> PyTree:
  """Parameters as `load` returns them, none of them trained."""
  key, size = jax.random.key(0), config.image_size
  image = jnp.zeros((1, size, size, config.image_channels))
  frozen = networks.autoencoder.init(key, image)["params"]
  return {
    **init_params(config, networks.unet, key),
    **init_memory(config, frozen),
  }


def as_model(
  config: Config, networks: Networks, params: PyTree, nothing: Any
) -> Model:
  """What sampling and scoring need of a network."""
  process = make_process(config)

  def denoiser(params: PyTree, condition: Array | None) -> jd.Denoiser:
    network = make_network(config, networks, params, condition)
    return jd.eps_denoiser(process, network)

  def decode(params: PyTree, z: Array) -> Array:
    z = z / params["scale"]
    return first_stage.decode(networks.autoencoder, params["first_stage"], z)

  return Model(
    config,
    process,
    params,
    denoiser,
    jd.FIXED_SMALL,
    config.num_classes if config.condition == "class" else 0,
    no_label=nothing,
    latent_shape=first_stage.latent_shape(config),
    decode=decode,
  )


def load_model(weights: str) -> Model:
  """`load`, as a `Model`."""
  config, networks, params = load(weights)
  tokenize = None
  if (Path(weights) / files.TOKENIZER).is_file():
    tokenize = batches.make_tokenize(config, Path(weights))
  nothing = batches.nothing(config, tokenize)
  return as_model(config, networks, params, nothing)
