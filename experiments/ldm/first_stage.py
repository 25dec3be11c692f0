"""The first stage that a latent diffusion works in; it is not trained here."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from experiments.first_stage import model as trained
from experiments.ldm.config import Config
from jaxgen.json_files import read_entries
from jaxgen.messages import reason, shown
from jaxgen.nn import posteriors
from jaxgen.nn.autoencoder import (
  KL_AUTOENCODERS,
  VQ_AUTOENCODERS,
  AutoencoderKL,
  FirstStage,
  VQAutoencoder,
  downsampling_factor,
)
from jaxgen.types import Array, Key, PyTree

AUTOENCODERS: dict[str, FirstStage] = {**KL_AUTOENCODERS, **VQ_AUTOENCODERS}
_KINDS: dict[str, Any] = {
  kind.__name__: kind for kind in (AutoencoderKL, VQAutoencoder)
}


def load(weights: str) -> tuple[FirstStage, PyTree]:
  """A first stage and its parameters.

  Args:
    weights: a workdir of `experiments.first_stage.train`, or NAME:PATH of a
      published one, such as "kl-f8:model.ckpt"; a whole model's file will do.

  Raises:
    FileNotFoundError: there is no such file or workdir.
    ValueError: nothing is named, or the file does not hold what it should.
  """
  if not weights:
    raise ValueError(
      "latent diffusion needs a first stage: --first-stage with a workdir of "
      "experiments.first_stage.train, or NAME:PATH of a published one "
      f"({', '.join(AUTOENCODERS)})"
    )
  _, autoencoder, params = trained.load(weights)
  return autoencoder, params


def check(config: Config, autoencoder: FirstStage) -> None:
  """Raises ValueError if the latents are not those of the configuration."""
  size = config.image_size // downsampling_factor(autoencoder)
  found = (size, size, autoencoder.z_channels, autoencoder.out_channels)
  wanted = (*latent_shape(config), config.image_channels)
  if found != wanted:
    raise ValueError(
      f"{config.name} diffuses latents {wanted[:3]} of images with "
      f"{wanted[3]} channels, this first stage has latents {found[:3]} of "
      f"images with {found[3]}: set --latent-size and --latent-channels"
    )


def latent_shape(config: Config) -> tuple[int, int, int]:
  """`(h, w, C)` of the latents."""
  return (config.latent_size, config.latent_size, config.latent_channels)


def encode(autoencoder: FirstStage, params: PyTree, images: Array) -> Array:
  """What the encoder says of images `[B, H, W, C]`: `[B, h, w, c]`.

  Of an `AutoencoderKL` the posterior's mean and log variance, c = 2 channels
  of the latent; of a `VQAutoencoder` the latent before quantisation.
  """
  found: Any = autoencoder.apply({"params": params}, images, method="encode")
  if isinstance(autoencoder, AutoencoderKL):
    return jnp.concatenate([found.mean, found.logvar], axis=-1)
  return found


def draw(autoencoder: FirstStage, key: Key, moments: Array) -> Array:
  """Latents `[B, h, w, C]` of what `encode` gave: a sample of the posterior."""
  if isinstance(autoencoder, AutoencoderKL):
    return posteriors.sample(key, posteriors.from_moments(moments))
  return moments


def mode(autoencoder: FirstStage, moments: Array) -> Array:
  """The most probable latents of what `encode` gave."""
  if isinstance(autoencoder, AutoencoderKL):
    return posteriors.mode(posteriors.from_moments(moments))
  return moments


def decode(autoencoder: FirstStage, params: PyTree, z: Array) -> Array:
  """Images `[B, H, W, C]` of latents, which a `VQAutoencoder` quantises."""
  return jnp.asarray(autoencoder.apply({"params": params}, z, method="decode"))


def write_architecture(path: Path, autoencoder: FirstStage) -> None:
  """Writes which network it is, as JSON; the file appears whole or not.

  Raises:
    ValueError: the file is there and says another.
  """
  if path.exists():
    if read_architecture(path) != autoencoder:
      raise ValueError(
        f"{path} names another first stage than this one: choose another "
        "workdir"
      )
    return
  fields = {
    field.name: getattr(autoencoder, field.name)
    for field in dataclasses.fields(autoencoder)
    if field.name not in ("parent", "name")
  }
  fields["dtype"] = jnp.dtype(fields["dtype"]).name
  content = {"kind": type(autoencoder).__name__, **fields}
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  temporary.write_text(json.dumps(content, indent=2) + "\n")
  os.replace(temporary, path)


def read_architecture(path: Path) -> FirstStage:
  """The network that `write_architecture` wrote down.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or describes no first stage.
  """
  if not path.is_file():
    raise FileNotFoundError(
      f"there is no {path}, which training writes: a workdir is wanted whole"
    )
  fields = read_entries(path)
  try:
    fields["dtype"] = jnp.dtype(fields["dtype"])
    fields = {
      k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
    }
    kind = _KINDS[fields.pop("kind")]
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}
    for name, value in fields.items():
      of_type = tuple if name == "channel_mult" else type(defaults.get(name))
      if of_type in (tuple, int, bool) and type(value) is not of_type:
        raise TypeError(f"{name} is {shown(value)}")
    return kind(**fields)
  except (TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      f"{path} describes no first stage: {reason(error)}"
    ) from error
