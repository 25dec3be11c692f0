"""From a configuration to the objects of the library."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.iddpm import adm
from experiments.iddpm.config import CONFIGS, Config
from experiments.models import Model, restore_run, shared_fields
from jaxgen import data
from jaxgen.convert import openai
from jaxgen.diffusion import importance
from jaxgen.nn.ddpm_unet import depth_to_space, space_to_depth
from jaxgen.nn.openai_unet import UNet
from jaxgen.types import Array, Key, Network, PyTree

# The released files and what they were trained with, where not the default.
RELEASED: dict[str, tuple[str, dict[str, Any]]] = {
  "imagenet64_uncond_100M_1500K.pt": ("imagenet64", {}),
  "imagenet64_uncond_vlb_100M_1500K.pt": ("imagenet64", {"objective": "vlb"}),
  "imagenet64_cond_270M_250K.pt": ("imagenet64_cond", {}),
  "cifar10_uncond_50M_500K.pt": ("cifar10", {}),
  "cifar10_uncond_vlb_50M_500K.pt": ("cifar10", {"objective": "vlb"}),
  "upsample_cond_500K.pt": ("upsampler", {}),
  "lsun_uncond_100M_1200K_bs128.pt": ("lsun_bedroom", {}),
  "lsun_uncond_100M_2400K_bs64.pt": ("lsun_bedroom", {"lr": 2e-5}),
}
RELEASED |= {name: (config, {}) for name, config in adm.RELEASED.items()}


def make_process(config: Any) -> jd.DiscreteProcess:
  """The discrete process; linear betas shrink so that T changes no marginal."""
  if config.schedule == "cosine":
    betas = jd.cosine_betas(config.T)
  else:
    scale = 1000 / config.T
    betas = jd.linear_betas(config.T, 1e-4 * scale, 0.02 * scale)
  return jd.DiscreteProcess.from_betas(betas)


def make_unet(config: Config) -> UNet:
  """The U-Net; all objectives but "simple" have it predict v as well."""
  outputs = 1 if config.objective == "simple" else 2
  shared = shared_fields(config, UNet)
  hidden = 1 if config.label_dropout else 0  # the label of a hidden label
  return UNet(
    **shared
    | {
      "dtype": jnp.dtype(config.dtype),
      "num_classes": config.num_classes + hidden or None,
      "super_resolution": config.low_res_size > 0,
      "out_channels": config.image_channels * outputs * config.patch_size**2,
    }
  )


def init_params(config: Config, unet: UNet, key: Key) -> PyTree:
  """Fresh parameters."""
  size = config.image_size // config.patch_size
  x = jnp.zeros((1, size, size, config.image_channels * config.patch_size**2))
  y = jnp.zeros(1, jnp.int32) if config.num_classes else None
  low_res = x if config.low_res_size else None
  return jax.jit(unet.init)(key, x, jnp.zeros(1), y, low_res)["params"]


def make_network(
  config: Config,
  unet: UNet,
  params: PyTree,
  labels: Array | None = None,
  low_res: Array | None = None,
  dropout_key: Key | None = None,
) -> Network:
  """The U-Net closed over parameters and conditions; it counts t from 0."""
  rescale = 1000 / config.T if config.rescale_timesteps else 1
  if low_res is not None and config.patch_size > 1:
    # Enlarged here; the U-Net enlarges what is smaller than its input.
    size = config.image_size
    shape = (len(low_res), size, size, low_res.shape[-1])
    large = jax.image.resize(low_res, shape, "bilinear", antialias=False)
    low_res = space_to_depth(large, config.patch_size)

  def network(x: Array, t: Array) -> Array:
    output = unet.apply(
      {"params": params},
      space_to_depth(x, config.patch_size),
      (t - 1) * rescale,
      labels,
      low_res,
      deterministic=dropout_key is None,
      rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return depth_to_space(jnp.asarray(output), config.patch_size)

  return network


def make_denoiser(
  config: Config, process: jd.DiscreteProcess, network: Network
) -> jd.Denoiser:
  """The denoiser, with the learned variance if there is one."""
  if config.objective == "simple":
    return jd.eps_denoiser(process, network)
  return jd.learned_range_denoiser(process, network)


def make_loss(
  config: Config, process: jd.DiscreteProcess, unet: UNet
) -> Callable[..., Any]:
  """The training loss (params, key, batch[, loss history])."""

  def network_of(params, key, batch):
    labels, low_res = None, None
    if config.num_classes:
      hide = jax.random.bernoulli(
        jax.random.fold_in(key, 1), config.label_dropout, batch["label"].shape
      )
      labels = jnp.where(hide, config.num_classes, batch["label"])
    if config.low_res_size:
      low_res = data.shrink(batch["image"], config.low_res_size)
    return make_network(config, unet, params, labels, low_res, key)

  def loss(params, key, batch):
    key, dropout_key = jax.random.split(key)
    network, x_0 = network_of(params, dropout_key, batch), batch["image"]
    if config.objective == "simple":
      return jd.simple_loss(process, network, key, x_0)
    return jd.hybrid_loss(process, network, key, x_0, config.hybrid_weight)

  def bound(params, key, batch, history):
    key, dropout_key, t_key = jax.random.split(key, 3)
    network, x_0 = network_of(params, dropout_key, batch), batch["image"]
    t, weights = importance.draw(history, t_key, len(x_0))
    denoiser = jd.learned_range_denoiser(process, network)
    losses = jd.vlb_losses(process, denoiser, key, x_0, t=t)
    return (weights * losses).mean(), {}, importance.update(history, t, losses)

  return bound if config.objective == "vlb" else loss


def make_memory(config: Config) -> PyTree:
  """What the loss remembers: of "vlb", the last losses of each t."""
  return importance.no_history(config.T) if config.objective == "vlb" else ()


def load(weights: str) -> tuple[Config, UNet, PyTree]:
  """A trained model: a workdir of `train`, or a released file.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: the file's name is none of the release.
  """
  path = Path(weights)
  if (path / "checkpoints").is_dir():
    config, params = restore_run(path, Config)
    return config, make_unet(config), params
  if not path.is_file():
    raise FileNotFoundError(
      f"{weights} is neither a workdir nor a released file: no such path"
    )
  if path.name not in RELEASED:
    raise ValueError(
      f"{path.name} is none of the released files: {', '.join(RELEASED)}"
    )
  name, changes = RELEASED[path.name]
  unet: Any
  unet, params = openai.load(path)
  config = dataclasses.replace((CONFIGS | adm.CONFIGS)[name], **changes)
  return config, unet.clone(dropout=0.0), params


def as_model(config: Config, unet: UNet, params: PyTree) -> Model:
  """What sampling and scoring need of a network."""
  process = make_process(config)

  def denoiser(
    params: PyTree, labels: Array | None, low_res: Array | None = None
  ) -> jd.Denoiser:
    network = make_network(config, unet, params, labels, low_res)
    return make_denoiser(config, process, network)

  return Model(
    config,
    process,
    params,
    denoiser,
    jd.FIXED_LARGE,  # of "simple"; the release's default
    config.num_classes,
    no_label=config.num_classes if config.label_dropout else None,
    low_res_size=config.low_res_size,
  )


def load_model(weights: str) -> Model:
  """`load`, as a `Model`."""
  return as_model(*load(weights))
