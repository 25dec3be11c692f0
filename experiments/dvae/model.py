"""From a configuration to the objects of the library."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.dvae.config import Config
from experiments.first_stage.model import COLLAPSED_SHARE
from experiments.models import restore_run
from experiments.tokenizers import Tokenizer
from jaxgen.convert import dalle_dvae
from jaxgen.convert import discrete_vae as beit_files
from jaxgen.nn import discrete_vae, dvae
from jaxgen.types import Array, Key, PyTree

_DALLE_FILES = ("encoder.pkl", "decoder.pkl")
_BEIT_FILE = "pytorch_model.bin"


class Networks(NamedTuple):
  """An encoder and a decoder, of one kind.

  Attributes:
    encoder: images, mapped as below -> logits `[B, h, w, K]`.
    decoder: distributions over tokens `[B, h, w, K]` -> what the loss takes.
    mapped: these are DALL-E's, which see `map_pixels` and predict a density.
  """

  encoder: dvae.Encoder | discrete_vae.Encoder
  decoder: dvae.Decoder | discrete_vae.Decoder
  mapped: bool


def make_networks(config: Config) -> Networks:
  """The networks of a configuration."""
  c, dtype = config, jnp.dtype(config.dtype)
  if c.network == "beit":
    sizes = (c.channels, c.halvings)
    return Networks(
      discrete_vae.Encoder(*sizes, c.num_tokens, dtype),
      discrete_vae.Decoder(*sizes, c.code_width, c.image_channels, dtype),
      mapped=False,
    )
  sizes, groups = (c.channels, c.num_blocks), c.halvings + 1
  return Networks(
    dvae.Encoder(*sizes, c.num_tokens, groups, dtype),
    dvae.Decoder(*sizes, c.code_width, c.image_channels, groups, dtype),
    mapped=True,
  )


def init_params(config: Config, key: Key) -> PyTree:
  """Fresh parameters, {"encoder": ..., "decoder": ...}."""
  networks = make_networks(config)
  x = jnp.zeros((1, config.f, config.f, config.image_channels))
  z = jnp.zeros((1, 1, 1, config.num_tokens))

  @jax.jit
  def init(key: Key) -> PyTree:
    keys = jax.random.split(key)
    return {
      "encoder": networks.encoder.init(keys[0], x)["params"],
      "decoder": networks.decoder.init(keys[1], z)["params"],
    }

  return init(key)


def pixels(networks: Networks, x: Array) -> Array:
  """Images in [-1, 1] as the encoder and the loss see them."""
  return dvae.map_pixels((x + 1) / 2) if networks.mapped else x


def images_of(networks: Networks, outputs: Array) -> Array:
  """Images in [-1, 1] that the decoder's outputs stand for."""
  if networks.mapped:
    return 2 * dvae.reconstruction(outputs) - 1
  return jnp.clip(outputs, -1, 1)


def logits_of(networks: Networks, params: PyTree, x: Array) -> Array:
  """Logits `[B, h, w, K]` of what `pixels` gives."""
  found: Any = networks.encoder.apply({"params": params["encoder"]}, x)
  return found


def decode(networks: Networks, params: PyTree, z: Array) -> Array:
  """The decoder's outputs for distributions over tokens `[B, h, w, K]`."""
  found: Any = networks.decoder.apply({"params": params["decoder"]}, z)
  return found


def tokenizer(networks: Networks, params: PyTree, channels: int) -> Tokenizer:
  """The tokenizer that an autoencoder is; no noise is added."""
  encoder = networks.encoder
  halvings = (
    encoder.num_layers if not networks.mapped else encoder.num_groups - 1
  )

  def encode(params: PyTree, images: Array) -> Array:
    x = pixels(networks, images.astype(jnp.float32))
    tokens = dvae.tokens_of(logits_of(networks, params, x))
    return tokens.reshape(len(tokens), -1)

  def to_images(params: PyTree, tokens: Array) -> Array:
    side = math.isqrt(tokens.shape[1])
    if side**2 != tokens.shape[1]:
      raise ValueError(
        "a square grid of tokens is wanted, [B, N] with N a square, got "
        f"{list(tokens.shape)}"
      )
    grid = tokens.reshape(len(tokens), side, side)
    z = jax.nn.one_hot(grid, encoder.num_tokens)
    return images_of(networks, decode(networks, params, z))

  return Tokenizer(
    params, encode, to_images, encoder.num_tokens, 2**halvings, channels
  )


def load_tokenizer(path: Path) -> Tokenizer:
  """See `experiments.tokenizers.load`."""
  if (path / "checkpoints").is_dir():
    config, params = restore_run(path, Config)
    return tokenizer(make_networks(config), params, config.image_channels)
  if all((path / name).is_file() for name in _DALLE_FILES):
    networks = Networks(dvae.Encoder(), dvae.Decoder(), mapped=True)
    params = {
      "encoder": dalle_dvae.load(path / _DALLE_FILES[0], dvae.Encoder()),
      "decoder": dalle_dvae.load(path / _DALLE_FILES[1], dvae.Decoder()),
    }
    return tokenizer(networks, params, 3)
  if (path / _BEIT_FILE).is_file():
    encoder, decoder, params = beit_files.load(path / _BEIT_FILE)
    networks = Networks(encoder, decoder, mapped=False)
    return tokenizer(networks, params, decoder.output_channels)
  raise FileNotFoundError(
    f"{path} is no tokenizer: it has neither checkpoints/, as a workdir of "
    f"experiments.dvae.train, nor {' and '.join(_DALLE_FILES)}, nor "
    f"{_BEIT_FILE}"
  )


def load_model(weights: str) -> Any:
  """Refuses: this is no diffusion model.

  Raises:
    ValueError: always.
  """
  raise ValueError(
    f"{weights} is a discrete autoencoder, which has no process to sample from"
  )


def collapse_below(num_tokens: int, num_seen: int) -> float:
  """The perplexity of tokens below which a run has failed.

  Args:
    num_tokens: of the vocabulary.
    num_seen: tokens that the perplexity is taken over.
  """
  return 1 + COLLAPSED_SHARE * (min(num_tokens, num_seen) - 1)


def collapse(num_tokens: int, perplexity: float, num_seen: int) -> str:
  """One sentence if nearly all tokens are the same, else ""."""
  least = collapse_below(num_tokens, num_seen)
  if perplexity >= least:
    return ""
  return (
    f"the codebook has collapsed: the perplexity of its {num_tokens} codes is "
    f"{perplexity:.3g}, below {least:.3g}"
  )
