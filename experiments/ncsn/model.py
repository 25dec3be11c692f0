"""From a configuration to the objects of the library.

Images are in [-1, 1], where the noise of levels for [0, 1] is twice as large;
networks see [0, 1] and labels that count the levels from the largest.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.models import Model, restore_run
from experiments.ncsn.config import CONFIGS, Config
from jaxgen import training
from jaxgen.convert import ncsn as published
from jaxgen.diffusion.processes import marginal
from jaxgen.nn.ncsn import NCSN, NETWORKS
from jaxgen.types import Array, Key, PyTree

Weights = tuple[Config, NCSN, PyTree]


def make_process(config: Config) -> jd.DiscreteProcess:
  """The geometric levels, for images in [-1, 1]."""
  ends = (2 * config.sigma_max, 2 * config.sigma_min)
  sigmas = jd.geometric_sigmas(config.T, *ends)
  return jd.DiscreteProcess.from_sigmas(sigmas[::-1])


def make_net(config: Config) -> NCSN:
  """The published network, or a narrow one."""
  if config.network != "small":
    net = NETWORKS[config.network]
  else:
    net = NCSN(
      config.channels,
      (1, 2, 2),
      config.conditional,
      config.sigma_min,
      config.sigma_max,
      config.T,
    )
  return net.clone(dtype=jnp.dtype(config.dtype), remat=config.remat)


def init_params(config: Config, net: NCSN, key: Key) -> PyTree:
  """Fresh parameters."""
  size = config.image_size
  x = jnp.zeros((1, size, size, config.image_channels))
  return jax.jit(net.init)(key, x, jnp.zeros(1))["params"]


def make_denoiser(
  process: jd.DiscreteProcess, net: NCSN, params: PyTree
) -> jd.Denoiser:
  """The denoiser of a network, which predicts the score of [0, 1]."""

  def denoiser(x_t: Array, t: Array) -> jd.Prediction:
    _, sigma = marginal(process, t, x_t)
    label = jnp.broadcast_to(process.T - t, x_t.shape[:1])
    score = net.apply({"params": params}, (x_t + 1) / 2, label)
    return jd.from_eps(process, x_t, t, -sigma / 2 * jnp.asarray(score))

  return denoiser


def make_loss(process: jd.DiscreteProcess, net: NCSN) -> training.LossFn:
  """The sigma-weighted loss (params, key, batch) -> scalar."""

  def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
    denoiser = make_denoiser(process, net, params)
    return jd.ncsn_loss(process, denoiser, key, batch["image"])

  return loss


def make_sampler(
  config: Config,
  process: jd.DiscreteProcess,
  denoiser: jd.Denoiser,
  denoise: bool,
) -> jd.Sampler:
  """Annealed Langevin dynamics, with or without NCSNv2's last denoising."""
  # eps is that of [0, 1]: the ratio to sigma is the same in [-1, 1].
  snr = jd.ncsn_snr(config.step_size, config.sigma_min)
  corrector = jd.annealed_langevin(process, denoiser, snr)
  predictor = jd.no_predictor(process, denoiser if denoise else None)
  return jd.predictor_corrector(predictor, corrector, config.langevin_steps)


def load(weights: str) -> Weights:
  """A trained network, or a published one.

  Args:
    weights: a workdir of `train`; or NAME:PATH, a name of `CONFIGS` and a
      checkpoint that `jaxgen.convert.ncsn` reads, which does not hold it.

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
      "published NCSNs are given as NAME:PATH, such as "
      f"ncsnv2/cifar10:checkpoint_300000.pth, got {weights!r}"
    )
  config, net = CONFIGS[name], NETWORKS[name]
  return config, net, published.load(file, net, ema=not config.conditional)


def as_model(config: Config, net: NCSN, params: PyTree) -> Model:
  """What sampling and scoring need of a network."""
  process = make_process(config)

  def denoiser(params: PyTree, labels: Array | None) -> jd.Denoiser:
    del labels
    return make_denoiser(process, net, params)

  return Model(config, process, params, denoiser, jd.FIXED_SMALL)


def load_model(weights: str) -> Model:
  """`load`, as a `Model`."""
  return as_model(*load(weights))
