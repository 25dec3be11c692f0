"""From a configuration to the objects of the library.

All of EDM's Table 1 is one denoiser over `KarrasProcess`, whose time is sigma.
Score SDE's networks estimate eps there: VP's at x / sqrt(sigma^2 + 1), and VE's
-eps at x. So their weight 1 / sigma^2 of the error in x_0 is the simple loss.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.edm.config import Config
from experiments.models import Model, restore_run
from jaxgen import data
from jaxgen.data.augmentation import AUGMENT_LABELS
from jaxgen.diffusion.processes import expand
from jaxgen.nn.ddpm_unet import depth_to_space, space_to_depth
from jaxgen.nn.ncsnpp import NCSNpp
from jaxgen.training.optimizers import EmaDecay
from jaxgen.types import Array, Key, Network, PyTree

BETA_D, BETA_MIN = 19.9, 0.1  # score SDE's VP, as Table 1 names them
VP_EPS = 1e-5  # the least t that VP trains on
VE_SIGMAS = (0.02, 100.0)


def make_network(config: Config) -> NCSNpp:
  """DDPM++ ("vp") or NCSN++ ("ve"), without score SDE's own scalings.

  EDM's network is of this family; the labels of classes and of augmentation are
  its own.
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
    num_classes=config.num_classes,
    augment_dim=AUGMENT_LABELS if config.augment else 0,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
  )


def init_params(config: Config, unet: NCSNpp, key: Key) -> PyTree:
  """Fresh parameters."""
  size = config.image_size // config.patch_size
  x = jnp.zeros((1, size, size, config.image_channels * config.patch_size**2))
  labels = jnp.zeros(1, jnp.int32) if config.num_classes else None
  return jax.jit(unet.init)(key, x, jnp.ones(1), labels=labels)["params"]


def close_over(
  config: Config,
  unet: NCSNpp,
  params: PyTree,
  dropout_key: Key | None = None,
  labels: Array | None = None,
  changes: Array | None = None,
) -> Network:
  """F(x, c_noise) of Eq. 7, whatever network it is.

  NCSN++ embeds the logarithm of what it is told.

  Args:
    config: of the model.
    unet: the network.
    params: its parameters.
    dropout_key: of training; None is no dropout.
    labels: classes `[B]`, if it is told any.
    changes: labels of the augmentation `[B, 9]`; None when sampling: zeros.
  """

  def network(x: Array, c_noise: Array) -> Array:
    told = jnp.exp(c_noise) if config.formulation == "ve" else c_noise
    output = unet.apply(
      {"params": params},
      space_to_depth(x, config.patch_size),
      told,
      deterministic=dropout_key is None,
      labels=labels,
      augment=changes,
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


def vp_time(
  sigma: Array, beta_d: float = BETA_D, beta_min: float = BETA_MIN
) -> Array:
  """The inverse of `vp_sigma` (Table 1)."""
  log = jnp.log1p(sigma**2)
  root = jnp.sqrt(beta_min**2 + 2 * beta_d * log)
  # (root - bmin) / bd, without its cancellation at small sigma.
  return 2 * log / (root + beta_min)


def time_at(sde: jd.VPSDE | jd.VESDE, sigma: Array) -> Array:
  """Where sigma / alpha of score SDE's process is sigma (Table 1, "schedule").

  Raises:
    ValueError: the process is neither VP nor VE in continuous time.
  """
  if type(sde) is jd.VPSDE:
    beta_d = sde.beta_max - sde.beta_min
    return vp_time(sigma, beta_d, sde.beta_min)
  if isinstance(sde, jd.VESDE):
    span = jnp.log(sde.sigma_max / sde.sigma_min)
    return jnp.log(sigma / sde.sigma_min) / span
  raise ValueError(
    f"EDM's times need a VPSDE or a VESDE, got {type(sde).__name__}"
  )


def over_sigma(model: Model) -> Model:
  """Score SDE's VP or VE model as one over `KarrasProcess`, for EDM's sampler.

  At (y, sigma) its eps is that of x_t = alpha_t y at the t of `time_at`: the
  columns VP and VE of Table 1. As in the paper's Table 2 the levels are EDM's,
  80 to 0.002, where the model has seen them: VE's least level is 0.02.

  Raises:
    ValueError: the model's process is another.
  """
  sde = model.process
  ends = jnp.array([0.0, sde.T])
  time_at(sde, jnp.ones(()))  # refuses another process
  low, high = (float(s) for s in sde.sigma(ends) / sde.alpha(ends))
  process = jd.KarrasProcess(min(80.0, high))

  def denoiser(params: PyTree, labels: Array | None) -> jd.Denoiser:
    inner = model.denoiser(params, labels)

    def over(y: Array, sigma: Array) -> jd.Prediction:
      t = jnp.clip(time_at(sde, sigma), 0, sde.T)
      x_t = expand(sde.alpha(t), y) * y
      return jd.from_eps(process, y, sigma, inner(x_t, t).eps)

    return over

  sigma_min = max(model.sigma_min, low)
  return model._replace(process=process, denoiser=denoiser, sigma_min=sigma_min)


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
    x_0, changes = batch["image"], None
    if config.augment:
      x_0, changes = data.augment(
        jax.random.fold_in(key, 1), x_0, config.augment
      )
    labels = batch["label"] if config.num_classes else None
    network = close_over(config, unet, params, dropout_key, labels, changes)
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
  config, params = restore_run(path, Config)
  return as_model(config, make_network(config), params)


def as_model(config: Config, unet: NCSNpp, params: PyTree) -> Model:
  """What sampling and scoring need of a network."""
  process = jd.KarrasProcess()

  def denoiser(params: PyTree, labels: Array | None) -> jd.Denoiser:
    network = close_over(config, unet, params, labels=labels)
    return make_denoiser(config, process, network)

  # VE has seen nothing below its own smallest level.
  original_ve = (config.formulation, config.preconditioning) == (
    "ve",
    "original",
  )
  sigma_min = VE_SIGMAS[0] if original_ve else 0.002
  return Model(
    config,
    process,
    params,
    denoiser,
    jd.FIXED_SMALL,
    config.num_classes,
    sigma_min=sigma_min,
  )
