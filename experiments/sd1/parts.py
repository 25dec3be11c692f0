"""The three parts of Stable Diffusion 1's sampling, for a batch of images.

What the U-Net is told and where to start (`begin`), the sampler (`sampler_of`),
and the decoder (`end`).

A batch's arrays have a row for each image: `tokens` and `negative` `[B, 77]`,
`seed` `[B]`. Shared by all are guidance's `scale` `[]` and, where images start
from one, that `image` `[1, H, W, 3]` in [-1, 1]; where part of it is painted,
the `mask` `[1, H, W, 1]`, 1 there, and whether to begin with `pure` noise `[]`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.sd1 import config
from experiments.sd1.config import How
from jaxgen import random
from jaxgen.convert import sd1
from jaxgen.nn import posteriors
from jaxgen.nn.autoencoder import AutoencoderKL, downsampling_factor
from jaxgen.nn.tiling import tiled_decode
from jaxgen.types import Array, Key

Arrays = Mapping[str, Any]
_ENCODER = 2**31 - 1  # the stream of keys for the sample of the posterior
_TILE_OVERLAP = 16


def begin(
  networks: sd1.Networks,
  how: How,
  params: sd1.Params,
  batch: Arrays,
  shared: Arrays,
  t: Array,
) -> tuple[dict[str, Any], Array]:
  """What the U-Net is told, and the latents to start from at time t."""
  keys = jax.vmap(jax.random.key)(batch["seed"])
  text = networks.text_encoder.clone(dtype=jnp.dtype(how.dtype))
  variables = {"params": params.text_encoder}
  encode: Any = lambda tokens: text.apply(variables, tokens)
  given = {"keys": keys, "scale": shared["scale"]}
  given["context"] = encode(batch["tokens"]).hidden
  if how.scale != 1:
    given["no_context"] = encode(batch["negative"]).hidden
  f = downsampling_factor(networks.first_stage)
  channels = networks.first_stage.z_channels
  shape = (len(keys), *(n // f for n in how.size), channels)
  noise = random.normal(keys, shape[1:])
  process = config.process_of(how)
  # k-diffusion starts from sigma_T z, the release's samplers from z.
  start = process.sigma(t) * noise if "euler" in how.sampler else noise
  if "image" not in shared:
    return given, start
  keeps = jax.vmap(lambda key: jax.random.fold_in(key, _ENCODER))(keys)
  latents = lambda x: _encode(networks, how, params, keeps, x)
  x_t = lambda z: jd.q_sample(process, keys, z, t)[0]
  if "mask" not in shared:
    return given, x_t(latents(shared["image"]))
  mask = jnp.broadcast_to(shared["mask"][:, ::f, ::f], (*shape[:3], 1))
  z = latents(shared["image"])
  if networks.unet.concat_channels:
    hidden = latents(shared["image"] * (1 - shared["mask"]))
    given["concat"] = jnp.concatenate([mask, hidden], -1)
  else:
    given |= {"known": z, "known_mask": 1 - mask}
  return given, jnp.where(shared["pure"], start, x_t(z))


def sampler_of(
  networks: sd1.Networks, how: How, params: sd1.Params, given: Arrays
) -> jd.Sampler:
  """The sampler of the guided U-Net, which keeps what a mask does not show."""
  unet = networks.unet.clone(
    dtype=jnp.dtype(how.dtype), query_chunk=how.query_chunk, flash=how.flash
  )

  def network(x, t, condition):
    return unet.apply({"params": params.unet}, x, t - 1, **condition)

  condition = {k: given[k] for k in ("context", "concat") if k in given}
  guided = lambda x, t: network(x, t, condition)
  if "no_context" in given:
    empty = condition | {"context": given["no_context"]}
    guided = jd.guided_network(network, condition, empty, given["scale"])
  process = config.process_of(how)
  sampler = config.make_sampler(how, jd.eps_denoiser(process, guided))
  if "known" in given:
    known, mask = given["known"], given["known_mask"]
    sampler = jd.inpaint(process, sampler, known, mask)
  return sampler


def end(
  networks: sd1.Networks, how: How, params: sd1.Params, x: Array
) -> Array:
  """Images of latents `[B, h, w, C]`, one by one; of large ones in tiles."""
  vae = _first_stage(networks, how)
  variables = {"params": params.first_stage}
  decode: Any = lambda z: vae.apply(variables, z, method=vae.decode)
  f = downsampling_factor(vae)
  tile = how.tile_above // f

  def one(z):
    if max(z.shape[:2]) <= tile:
      return decode(z[None])[0]
    return tiled_decode(decode, z[None], tile, _TILE_OVERLAP)[0]

  return jax.lax.map(one, x / sd1.SCALE_FACTOR)


def _encode(
  networks: sd1.Networks, how: How, params: sd1.Params, keys: Key, x: Array
) -> Array:
  """Scaled latents of one image `[1, H, W, 3]`, a sample for each key."""
  vae = _first_stage(networks, how)
  variables = {"params": params.first_stage}
  posterior: Any = vae.apply(variables, x, method=vae.encode)
  sample = lambda key: posteriors.sample(key, posterior)[0]
  return sd1.SCALE_FACTOR * jax.vmap(sample)(keys)


def _first_stage(networks: sd1.Networks, how: How) -> AutoencoderKL:
  return networks.first_stage.clone(dtype=jnp.dtype(how.vae_dtype))
