"""From a configuration to the objects of the library."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.ddpm.config import CONFIGS, Config
from experiments.models import Model, restore_run, shared_fields
from jaxgen.convert import ddpm as published
from jaxgen.nn.ddpm_unet import UNet
from jaxgen.types import Array, Key, Network, PyTree

FROM_OUTPUT = {
  "eps": jd.from_eps,
  "x_0": jd.from_x_0,
  "velocity": jd.from_velocity,
  "mean": jd.from_mean,
}
SIMPLE_LOSS = {
  "eps": jd.simple_loss,
  "x_0": jd.x_0_loss,
  "velocity": jd.velocity_loss,
  "mean": jd.mean_loss,
}
# Configuration, network, parameters.
Weights = tuple[Config, UNet, PyTree]
VARIANCE = {"small": jd.FIXED_SMALL, "large": jd.FIXED_LARGE, "learned": 0.0}


def make_process(config: Config) -> jd.DiscreteProcess:
  """The discrete process with linear betas."""
  return jd.DiscreteProcess.from_betas(
    jd.linear_betas(config.T, config.beta_start, config.beta_end)
  )


def make_unet(config: Config) -> UNet:
  """The U-Net; a learned variance doubles its output channels."""
  shared = shared_fields(config, UNet)
  learned = config.variance == "learned"
  return UNet(
    **shared | {"dtype": jnp.dtype(config.dtype)},
    out_channels=config.image_channels * (2 if learned else 1),
  )


def init_params(config: Config, unet: UNet, key: Key) -> PyTree:
  """Fresh parameters."""
  size = config.image_size
  x = jnp.zeros((1, size, size, config.image_channels))
  return jax.jit(unet.init)(key, x, jnp.zeros(1, jnp.int32))["params"]


def make_network(
  unet: UNet, params: PyTree, dropout_key: Key | None = None
) -> Network:
  """The U-Net closed over parameters; DDPM's networks count t from 0."""

  def network(x: Array, t: Array) -> Array:
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    variables = {"params": params}
    deterministic = dropout_key is None
    output = unet.apply(variables, x, t - 1, deterministic, rngs=rngs)
    return jnp.asarray(output)

  return network


def make_denoiser(
  config: Config, process: jd.DiscreteProcess, network: Network
) -> jd.Denoiser:
  """The denoiser of the configured target and variance."""
  from_output = FROM_OUTPUT[config.target]

  def denoiser(x_t: Array, t: Array) -> jd.Prediction:
    output = network(x_t, jnp.broadcast_to(t, x_t.shape[:1]))
    if config.variance != "learned":
      return from_output(process, x_t, t, output)
    output, log_variance = jnp.split(output, 2, axis=-1)
    prediction = from_output(process, x_t, t, output)
    return prediction._replace(log_variance=log_variance)

  return denoiser


def make_loss(
  config: Config, process: jd.DiscreteProcess, unet: UNet
) -> Callable[[PyTree, Key, dict[str, Array]], Array]:
  """The training loss (params, key, batch) -> scalar."""

  def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
    key, dropout_key = jax.random.split(key)
    network = make_network(unet, params, dropout_key)
    if config.loss == "simple":
      simple = SIMPLE_LOSS[config.target]
      return simple(process, network, key, batch["image"])
    denoiser = make_denoiser(config, process, network)
    variance = VARIANCE[config.variance]
    return jd.vlb_loss(process, denoiser, key, batch["image"], variance)

  return loss


def load(weights: str) -> Weights:
  """A trained model: a workdir of `train`, or published weights.

  Args:
    weights: a workdir; or a file or directory in a layout that
      `jaxgen.convert.ddpm` reads.

  Returns:
    Its configuration, network and (averaged) parameters.

  Raises:
    FileNotFoundError: there is neither.
  """
  path = Path(weights)
  if (path / "checkpoints").is_dir():
    config, params = restore_run(path, Config)
    return config, make_unet(config), params
  if not path.exists():
    raise FileNotFoundError(
      f"{weights} is neither a workdir nor published weights: no such path"
    )
  unet, params = published.load(path)
  names = {5: "celeba64", 6: "celebahq256"}
  base = CONFIGS[names.get(len(unet.channel_mult), "cifar10")]
  config = dataclasses.replace(
    base,
    name=path.stem,
    image_channels=unet.out_channels,
    channels=unet.channels,
    channel_mult=unet.channel_mult,
    num_res_blocks=unet.num_res_blocks,
    attention_resolutions=unet.attention_resolutions,
  )
  return config, unet, params


def as_model(config: Config, unet: UNet, params: PyTree) -> Model:
  """What sampling and scoring need of a network."""
  process = make_process(config)

  def denoiser(params: PyTree, labels: Array | None) -> jd.Denoiser:
    del labels
    return make_denoiser(config, process, make_network(unet, params))

  variance = VARIANCE[config.variance]
  return Model(config, process, params, denoiser, variance)


def load_model(weights: str) -> Model:
  """`load`, as a `Model`."""
  return as_model(*load(weights))
