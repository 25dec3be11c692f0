"""From a configuration to the objects of the library."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from experiments.first_stage.config import PUBLISHED, Config
from experiments.models import restore_run, shared_fields
from jaxgen.convert import first_stage as published
from jaxgen.convert import lpips
from jaxgen.convert.torch_files import read_state
from jaxgen.nn import posteriors
from jaxgen.nn.autoencoder import (
  AutoencoderKL,
  FirstStage,
  VQAutoencoder,
  last_convolution,
)
from jaxgen.nn.discriminators import NLayerDiscriminator
from jaxgen.nn.lpips import LPIPS
from jaxgen.nn.quantizers import codebook_usage
from jaxgen.training import autoencoder_losses as losses
from jaxgen.types import Array, Key, PyTree

# Configuration, network, parameters.
Weights = tuple[Config, FirstStage, PyTree]

# Below these a run has failed, whatever its loss: the perplexity of the codes,
# as a share of the way from 1 to what it can be, and the KL divergence per
# value of the latent, in nats.
COLLAPSED_SHARE = 0.01
COLLAPSED_KL = 0.01


def make_autoencoder(config: Config) -> FirstStage:
  """The autoencoder, KL- or VQ-regularised."""
  kind = VQAutoencoder if config.num_codes else AutoencoderKL
  fields = shared_fields(config, kind) | {
    "resolution": config.image_size,
    "out_channels": config.image_channels,
    "dtype": jnp.dtype(config.dtype),
  }
  return kind(**fields)


def make_discriminator(config: Config) -> NLayerDiscriminator:
  """The patch discriminator."""
  return NLayerDiscriminator(
    config.disc_channels, config.disc_layers, jnp.dtype(config.dtype)
  )


def init_params(config: Config, key: Key) -> tuple[PyTree, PyTree]:
  """Fresh parameters of both networks, by name, and batch statistics."""
  size = config.image_size
  x = jnp.zeros((1, size, size, config.image_channels))
  autoencoder = make_autoencoder(config)
  discriminator = make_discriminator(config)

  @jax.jit
  def init(key: Key) -> tuple[PyTree, PyTree]:
    keys = jax.random.split(key)
    first = autoencoder.init(keys[0], x)["params"]
    second = discriminator.init(keys[1], x)
    params = {"autoencoder": first, "discriminator": second["params"]}
    return params, second["batch_stats"]

  return init(key)


def make_perceptual(config: Config) -> Partial:
  """The distance (x, x_hat) -> `[B]`, with its weights as leaves.

  LPIPS where the configuration has weights; otherwise `pyramid_distance`, with
  up to four levels.

  Raises:
    FileNotFoundError: the weights are not there.
    ValueError: they are damaged or others.
  """
  if not config.lpips:
    halvings = (config.image_size & -config.image_size).bit_length() - 1
    distance = partial(losses.pyramid_distance, levels=min(4, halvings))
    return Partial(distance)
  network = LPIPS(jnp.dtype(config.dtype))
  params = load_lpips(config.lpips)
  return Partial(lambda p, *xs: network.apply({"params": p}, *xs), params)


def load_lpips(path: str | Path) -> PyTree:
  """Parameters of `LPIPS`.

  Args:
    path: a directory with the two published files, or one file that holds the
      whole network, such as the checkpoint of a released first stage.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged or holds other weights.
  """
  path = Path(path)
  if path.is_dir():
    return lpips.load(path / "vgg16-397923af.pth", path / "vgg.pth")
  return lpips.from_original(read_state(path))


def encode(
  config: Config, autoencoder: FirstStage, params: PyTree, key: Key, x: Array
) -> tuple[Array, Array, dict[str, Array]]:
  """What the decoder is given for images x `[B, H, W, C]`.

  Returns:
    (the posterior's sample or the codes `[B, H / f, W / f, c]`, the loss that
    regularises them, metrics).
  """
  variables = {"params": params}
  encoded: Any = autoencoder.apply(variables, x, method="encode")
  metrics: dict[str, Array]
  if config.num_codes:
    found: Any = autoencoder.apply(variables, encoded, method="quantize")
    used, perplexity = codebook_usage(found.indices, config.num_codes)
    metrics = {"codebook": found.loss, "used": used, "perplexity": perplexity}
    z, loss = found.z_q, config.codebook_weight * found.loss
  else:
    metrics = {"kl": posteriors.kl(encoded).mean()}
    z = posteriors.sample(key, encoded)
    loss = losses.kl_loss(encoded, config.kl_weight)
  measure, least = collapse_below(config, len(x))
  metrics["collapsed"] = (metrics[measure] < least).astype(jnp.float32)
  return z, loss, metrics


def decode_features(autoencoder: FirstStage, params: PyTree, z: Array) -> Array:
  """What `last_convolution` makes images of, for what `encode` gave."""
  features = autoencoder.apply({"params": params}, z, method="decode_features")
  return jnp.asarray(features)


def decode(autoencoder: FirstStage, params: PyTree, z: Array) -> Array:
  """Images `[B, H, W, C]` of what `encode` gave."""
  features = decode_features(autoencoder, params, z)
  return last_convolution(params, features)


def collapse_below(config: Config, num_images: int) -> tuple[str, float]:
  """The measure of a collapse, and the value below which it has happened.

  Args:
    config: of the autoencoder.
    num_images: that the measure is taken over; few have less codes than there
      are.
  """
  positions = (config.image_size // config.f) ** 2
  if config.num_codes:
    possible = min(config.num_codes, num_images * positions)
    return "perplexity", 1 + COLLAPSED_SHARE * (possible - 1)
  return "kl", COLLAPSED_KL * positions * config.z_channels


def collapse(config: Config, metrics: dict[str, float], num_images: int) -> str:
  """One sentence if codebook or posterior have collapsed, else ""."""
  measure, least = collapse_below(config, num_images)
  value = metrics[measure]
  if value >= least:
    return ""
  if config.num_codes:
    return (
      f"the codebook has collapsed: the perplexity of its {config.num_codes} "
      f"codes is {value:.3g}, below {least:.3g}"
    )
  return (
    f"the posterior has collapsed: it tells {value:.3g} nats of an image, "
    f"below {least:.3g}"
  )


def load(weights: str) -> Weights:
  """A trained autoencoder: a workdir of `train`, or published weights.

  Args:
    weights: a workdir; NAME:PATH of a published file, whole diffusion models
      included, NAME being one of `PUBLISHED`; or a directory of that name with
      a model.ckpt in it, as the release unpacks.

  Returns:
    Its configuration, network and (averaged) parameters.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: the weights are another network's.
  """
  path = Path(weights)
  if (path / "checkpoints").is_dir():
    config, params = restore_run(path, Config)
    return config, make_autoencoder(config), params
  name, _, file = weights.partition(":")
  if not file and path.name in PUBLISHED:
    name, file = path.name, str(path / "model.ckpt")
  if name not in PUBLISHED:
    raise FileNotFoundError(
      f"{weights} is neither a workdir nor NAME:PATH of published weights, "
      f"where NAME is one of {', '.join(PUBLISHED)}"
    )
  # A released file also holds the LPIPS that it was trained with.
  config = dataclasses.replace(PUBLISHED[name], lpips=file)
  autoencoder = make_autoencoder(config)
  return config, autoencoder, published.load(file, autoencoder)


def load_model(weights: str) -> Any:
  """Refuses: this is no diffusion model.

  Raises:
    ValueError: always.
  """
  raise ValueError(
    f"{weights} is a first stage, which has no process to sample from"
  )


def record(config: Config) -> dict[str, Any]:
  """The configuration for a result, without paths of this machine."""
  fields = dataclasses.asdict(config)
  return fields | {"lpips": Path(config.lpips).name}
