"""Latent diffusion on captioned images of 8 x 8 pixels."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.ldm.config import smoke
from experiments.ldm.configs import CONFIGS
from jaxgen.data.loading import Source
from jaxgen.nn.autoencoder import AutoencoderKL

TINY = AutoencoderKL(
  3, (1, 1), mid_attention=False, channels=32, num_res_blocks=1
)
CAPTIONS = ("red heart", "grinning cat", "flag: Chad", "")


def images(n, size=8, channels=3):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (n, size // 2, size // 2, channels), np.uint8)
  return coarse.repeat(2, 1).repeat(2, 2)


def toy_source(name, split, data_dir=None):
  """24 captioned images of 8 x 8 pixels, as PNG."""
  records = []
  for i, image in enumerate(images(24)):
    png = io.BytesIO()
    Image.fromarray(image).save(png, "png")
    caption = CAPTIONS[i % len(CAPTIONS)].encode()
    records.append(
      {"image": png.getvalue(), "caption": caption, "label": i % 3}
    )
  return Source(name, records, 3)


def random_params(init, *args):
  """Weights of a network that is never compiled to be initialised."""
  rng = np.random.default_rng(3)
  shapes = jax.eval_shape(init, jax.random.key(0), *args)
  draw = lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), x.dtype)
  return jax.tree.map(draw, shapes)


def first_stage_params():
  """A first stage with random weights, whose latents are not of unit size."""
  params = random_params(TINY.init, jnp.zeros((1, 8, 8, 3)))["params"]
  params["quant_conv"]["bias"] = jnp.array([0.5, 0, -0.5, -2, -2, -2])
  return params


def toy(condition="text", **changes):
  """A smoke configuration of 8 x 8 images and 4 x 4 latents."""
  fields = {
    "image_size": 8,
    "latent_size": 4,
    "channel_mult": (1,),
    "first_stage": "tiny",
    "flip": True,
    "condition": condition,
    "num_classes": 3 if condition == "class" else 0,
  }
  small = smoke(CONFIGS["openmoji_small"])
  return dataclasses.replace(small, **fields | changes)
