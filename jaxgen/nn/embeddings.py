"""Embeddings of the timestep."""

import math

import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array


def sinusoidal_embedding(
  t: Array,
  dim: int,
  *,
  cos_first: bool = False,
  endpoint: bool = True,
  max_period: float = 10_000.0,
) -> Array:
  """Sines and cosines of t at geometrically spaced frequencies.

  With h = dim // 2, the frequency i = 0, ..., h - 1 is
  max_period^(-i / (h - 1)) if `endpoint`, which reaches 1 / max_period, and
  max_period^(-i / h) if not. Published networks differ in both choices and
  must be run with their own:

  - DDPM, DDIM, score-SDE's DDPM++: sin first, endpoint (the defaults);
  - improved DDPM, ADM, latent diffusion, SD1: cos first, no endpoint.

  Args:
    t: timesteps `[B]`, as the network was trained on them.
    dim: size of the embedding; an odd one is padded with a zero column.
    cos_first: [cos, sin] in place of [sin, cos].
    endpoint: whether the lowest frequency is 1 / max_period.
    max_period: the longest period over 2 pi.

  Returns:
    `[B, dim]`, float32.

  Raises:
    ValueError: if `dim` is too small to hold its frequencies.
  """
  half = dim // 2
  if half < 1 + endpoint:
    raise ValueError(f"sinusoidal_embedding needs dim >= 4, got {dim}.")
  exponents = -np.arange(half) / (half - endpoint)
  frequencies = np.exp(math.log(max_period) * exponents).astype(np.float32)
  angles = t.astype(jnp.float32)[:, None] * frequencies[None]
  waves = [jnp.sin(angles), jnp.cos(angles)]
  embedding = jnp.concatenate(waves[::-1] if cos_first else waves, axis=-1)
  return jnp.pad(embedding, ((0, 0), (0, dim % 2)))
