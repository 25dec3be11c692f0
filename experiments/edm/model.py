"""From a configuration to the objects of the library.

All of EDM's Table 1 is one denoiser over `KarrasProcess`, whose time is sigma.
Score SDE's networks estimate eps there: VP's at x / sqrt(sigma^2 + 1), and VE's
-eps at x. So their weight 1 / sigma^2 of the error in x_0 is the simple loss.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.edm.config import Config
from experiments.models import Model
from jaxgen import training
from jaxgen.nn.ddpm_unet import depth_to_space, space_to_depth
from jaxgen.nn.ncsnpp import NCSNpp
from jaxgen.training.optimizers import EmaDecay
from jaxgen.types import Array, Key, Network, PyTree

BETA_D, BETA_MIN = 19.9, 0.1  # score SDE's VP, as Table 1 names them
VP_EPS = 1e-5  # the least t that VP trains on
VE_SIGMAS = (0.02, 100.0)


def make_network(config: Config) -> NCSNpp:
  """DDPM++ ("vp") or NCSN++ ("ve"), without score SDE's own scalings.

  EDM's network is of this family. Not here: its class labels, and its embedding
  of the augmentation of config F.
  """
  ve = config.formulation == "ve"
  return NCSNpp(
    config.channels,
    config.channel_mult,
    config.num_res_blocks,
    config.attention_resolutions,
    config.dropout,
    embedding="fourier" if ve else "positional",
    fir_kernel=(1, 3, 3, 1) if ve else None,
    progressive_input="residual" if ve else "none",
    centered=True,
    scale_by_sigma=False,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
  )


def init_params(config: Config, unet: NCSNpp, key: Key) -> PyTree:
  """Fresh parameters."""
  size = config.image_size // config.patch_size
  x = jnp.zeros((1, size, size, config.image_channels * config.patch_size**2))
  return jax.jit(unet.init)(key, x, jnp.ones(1))["params"]


def close_over(
  config: Config, unet: NCSNpp, params: PyTree, dropout_key: Key | None = None
) -> Network:
  """F(x, c_noise) of Eq. 7, whatever network it is.

  NCSN++ embeds the logarithm of what it is told.
  """

  def network(x: Array, c_noise: Array) -> Array:
    told = jnp.exp(c_noise) if config.formulation == "ve" else c_noise
    output = unet.apply(
      {"params": params},
      space_to_depth(x, config.patch_size),
      told,
      deterministic=dropout_key is None,
      rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return depth_to_space(jnp.asarray(output), config.patch_size)

  return network


def make_denoiser(
  config: Config, process: jd.KarrasProcess, network: Network
) -> jd.Denoiser:
  """D(x; sigma) of Table 1, from F."""
  if config.preconditioning == "edm":
    return jd.edm_denoiser(process, network, config.sigma_data)
  if config.formulation == "ve":
    # c_skip = 1, c_out = sigma, c_in = 1, c_noise = ln(sigma / 2).
    eps = lambda x, sigma: -network(x, jnp.log(sigma / 2))
    return jd.eps_denoiser(process, eps)

  def vp(x: Array, sigma: Array) -> Array:
    # c_skip = 1, c_out = -sigma, c_in = 1 / sqrt(sigma^2 + 1), 999 t(sigma).
    c_in = jax.lax.rsqrt(sigma**2 + 1)[:, None, None, None]
    return network(c_in * x, 999 * vp_time(sigma))

  return jd.eps_denoiser(process, vp)


def vp_sigma(t: Array) -> Array:
  """sigma / alpha of score SDE's VP at t: sqrt(e^(bd t^2 / 2 + bmin t) - 1)."""
  return jnp.sqrt(jnp.expm1(0.5 * BETA_D * t**2 + BETA_MIN * t))


def vp_time(sigma: Array) -> Array:
  """The inverse of `vp_sigma` (Table 1)."""
  log = jnp.log1p(sigma**2)
  root = jnp.sqrt(BETA_MIN**2 + 2 * BETA_D * log)
  # (root - bmin) / bd, without its cancellation at small sigma.
  return 2 * log / (root + BETA_MIN)


def draw_sigmas(config: Config, key: Key, n: int) -> Array:
  """n levels of the original losses: VP's t is uniform, VE's ln sigma."""
  u = jax.random.uniform(key, (n,))
  if config.formulation == "vp":
    return vp_sigma(VP_EPS + (1 - VP_EPS) * u)
  low, high = VE_SIGMAS
  return low * (high / low) ** u


def make_loss(
  config: Config, process: jd.KarrasProcess, unet: NCSNpp
) -> Callable[[PyTree, Key, dict[str, Array]], Array]:
  """The training loss (params, key, batch) -> scalar."""

  def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
    key, dropout_key, sigma_key = jax.random.split(key, 3)
    network, x_0 = close_over(config, unet, params, dropout_key), batch["image"]
    if config.loss == "edm":
      return jd.edm_loss(network, key, x_0, sigma_data=config.sigma_data)
    sigma = draw_sigmas(config, sigma_key, len(x_0))
    denoiser = make_denoiser(config, process, network)
    eps = lambda x, t: denoiser(x, t).eps
    return jd.simple_loss(process, eps, key, x_0, sigma)

  return loss


def ema_decay(config: Config) -> EmaDecay:
  """2^(-batch / half-life), the half-life growing with the images seen."""

  def decay(n: Array) -> Array:
    seen = n * float(config.batch_size)
    half_life = jnp.minimum(config.ema_images, config.ema_rampup * seen)
    return 0.5 ** (config.batch_size / half_life)

  return decay


def load_model(weights: str) -> Model:
  """A trained model: a workdir of `train`.

  Raises:
    FileNotFoundError: there is none.
  """
  path = Path(weights)
  if not (path / "checkpoints").is_dir():
    raise FileNotFoundError(f"{weights} is no workdir: it has no checkpoints")
  saved = training.restore_experiment(path / "checkpoints")
  fields: dict[str, Any] = {
    k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()
  }
  fields.pop("experiment")
  config = Config(**fields)
  params = training.restore_params(path / "checkpoints", "ema")
  return as_model(config, make_network(config), params)


def as_model(config: Config, unet: NCSNpp, params: PyTree) -> Model:
  """What sampling and scoring need of a network."""
  process = jd.KarrasProcess()

  def denoiser(params: PyTree, labels: Array | None) -> jd.Denoiser:
    del labels
    return make_denoiser(config, process, close_over(config, unet, params))

  # VE has seen nothing below its own smallest level.
  original_ve = (config.formulation, config.preconditioning) == (
    "ve",
    "original",
  )
  sigma_min = VE_SIGMAS[0] if original_ve else 0.002
  return Model(
    config, process, params, denoiser, jd.FIXED_SMALL, sigma_min=sigma_min
  )
