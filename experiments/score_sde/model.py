"""From a configuration to the objects of the library.

Images are in [-1, 1] everywhere. The published VE networks take them in [0, 1];
seen from [-1, 1] their noise is twice as large, so that the process has 2 sigma
and the network is told sigma. eps is the same. The prior is centred at 0, which
is grey, where theirs is centred at black: 0.01 of its standard deviation.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.models import Model, restore_run, shared_fields
from experiments.score_sde.config import CONFIGS, Config
from jaxgen.convert import score_sde as published
from jaxgen.diffusion.edm import preconditioning
from jaxgen.diffusion.processes import marginal
from jaxgen.nn.ddpm_unet import UNet
from jaxgen.nn.ncsnpp import NETWORKS, NCSNpp
from jaxgen.types import Array, Key, PyTree

SIGMA_DATA = 0.5  # of the preconditioning of a "unet"
EPS = {"ve": 1e-5, "vp": 1e-3, "subvp": 1e-3}  # where sampling ends
# (x_t, t [B]) -> the output at time t of the process's own count.
Apply = Callable[[Array, Array], Array]


def make_sde(config: Config) -> Any:
  """The SDE, for images in [-1, 1]."""
  if config.sde == "ve":
    return jd.VESDE(2 * config.sigma_min, 2 * config.sigma_max)
  kind = jd.VPSDE if config.sde == "vp" else jd.SubVPSDE
  return kind(config.beta_min, config.beta_max)


def make_process(config: Config, refine: int = 1) -> Any:
  """The SDE, or the levels of SMLD or DDPM that it was trained at.

  Args:
    config: of the model.
    refine: so many times more levels, in the same range (Table 1's P2000).
  """
  if config.continuous:
    return make_sde(config)
  n = config.T * refine
  if config.sde == "ve":
    sigmas = jd.geometric_sigmas(n, 2 * config.sigma_max, 2 * config.sigma_min)
    return jd.DiscreteProcess.from_sigmas(sigmas[::-1])
  ends = (config.beta_min / n, config.beta_max / n)
  return jd.DiscreteProcess.from_betas(jd.linear_betas(n, *ends))


def make_net(config: Config) -> NCSNpp | UNet:
  """The published network, or the U-Net of the configuration's fields."""
  dtype = jnp.dtype(config.dtype)
  if config.network != "unet":
    return NETWORKS[config.network].clone(dtype=dtype, remat=config.remat)
  shared = shared_fields(config, UNet)
  shared |= {"dtype": dtype, "out_channels": config.image_channels}
  return UNet(**shared)


def init_params(config: Config, net: NCSNpp | UNet, key: Key) -> PyTree:
  """Fresh parameters."""
  size = config.image_size
  x = jnp.zeros((1, size, size, config.image_channels))
  return jax.jit(net.init)(key, x, jnp.ones(1))["params"]


def label_of(config: Config, process: Any, t: Array) -> Array:
  """What a network is told at time t of a process (App. G of the paper).

  Continuous: sigma of images in [0, 1] for a Fourier embedding, otherwise
  999 t. Levels are counted from 0: VP's from data, VE's from noise. A finer
  process's lie between.
  """
  levels = config.T - 1
  discrete = isinstance(process.T, int)
  if discrete:
    fraction = (jnp.asarray(t, jnp.float32) - 1) / process.T * config.T
    level = jnp.minimum(fraction, levels)
  else:
    level = t * levels
  if config.network == "unet":
    return 999 * level / max(levels, 1)
  network = NETWORKS[config.network]
  if network.embedding == "fourier":
    return process.sigma(t) / 2
  if config.sde == "ve":
    return jnp.clip(levels - level, 0, levels)
  return level if discrete else 999 * t


def make_denoiser(
  config: Config,
  process: Any,
  net: NCSNpp | UNet,
  params: PyTree,
  dropout_key: Key | None = None,
) -> jd.Denoiser:
  """The denoiser of a network, at any time of the process."""

  def output(x: Array, t: Array) -> Array:
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    label = jnp.broadcast_to(label_of(config, process, t), x.shape[:1])
    variables = {"params": params}
    found = net.apply(variables, x, label, dropout_key is None, rngs=rngs)
    return jnp.asarray(found)

  def denoiser(x_t: Array, t: Array) -> jd.Prediction:
    alpha, sigma = marginal(process, t, x_t)
    if config.network == "unet":
      c_skip, c_out, c_in = preconditioning(sigma / alpha, SIGMA_DATA)
      x = x_t / alpha
      x_0 = c_skip * x + c_out * output(c_in * x, t)
      return jd.from_x_0(process, x_t, t, x_0)
    if config.sde == "ve":
      # The score of x / 2 + 1 / 2, whose noise is sigma / 2.
      return jd.from_eps(process, x_t, t, -sigma / 2 * output((x_t + 1) / 2, t))
    return jd.from_eps(process, x_t, t, output(x_t, t))

  return denoiser


def make_loss(
  config: Config, process: Any, net: NCSNpp | UNet
) -> Callable[[PyTree, Key, dict[str, Array]], Array]:
  """The training loss (params, key, batch) -> scalar.

  A "unet" has EDM's weights, under which its output has unit variance.
  """

  def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
    key, dropout_key = jax.random.split(key)
    denoiser = make_denoiser(config, process, net, params, dropout_key)
    x_0 = batch["image"]
    if config.network == "unet" and not config.likelihood_weighting:
      return _preconditioned_loss(process, denoiser, key, x_0)
    return jd.score_matching_loss(
      process,
      denoiser,
      key,
      x_0,
      likelihood_weighting=config.likelihood_weighting,
      reduction=config.reduction,
    )

  return loss


def _preconditioned_loss(
  process: Any, denoiser: jd.Denoiser, key: Key, x_0: Array
) -> Array:
  t_key, key = jax.random.split(key)
  t = jd.random_times(process, t_key, len(x_0))
  x_t, _ = jd.q_sample(process, key, x_0, t)
  alpha, sigma = marginal(process, t, x_t)
  _, c_out, _ = preconditioning(sigma / alpha, SIGMA_DATA)
  return (((denoiser(x_t, t).x_0 - x_0) / c_out) ** 2).mean()


Weights = tuple[Config, NCSNpp | UNet, PyTree]


def load(weights: str) -> Weights:
  """A trained model, or a published one.

  Args:
    weights: a workdir of `train`; or NAME:PATH, a name of `CONFIGS` and a
      checkpoint that `jaxgen.convert.score_sde` reads, which does not hold it.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: the name is unknown.
  """
  path = Path(weights)
  if (path / "checkpoints").is_dir():
    config, params = restore_run(path, Config)
    return config, make_net(config), params
  name, _, file = weights.partition(":")
  if name not in NETWORKS or not file:
    raise ValueError(
      "published score SDEs are given as NAME:PATH, such as "
      f"ve/cifar10_ncsnpp_continuous:checkpoint_24.pth, got {weights!r}"
    )
  config = CONFIGS[name]
  net = NETWORKS[name]
  return config, net, published.load(file, net, config.image_size)


def as_model(
  config: Config, net: NCSNpp | UNet, params: PyTree, process: Any = None
) -> Model:
  """What sampling and scoring need; of the configuration's process if None."""
  process = make_process(config) if process is None else process

  def denoiser(params: PyTree, labels: Array | None) -> jd.Denoiser:
    del labels
    return make_denoiser(config, process, net, params)

  return Model(config, process, params, denoiser, jd.FIXED_SMALL)


def load_model(weights: str) -> Model:
  """`load`, as a `Model`."""
  return as_model(*load(weights))
