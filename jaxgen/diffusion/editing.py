"""Start points and paths in x_T: what is done with latents."""

import jax.numpy as jnp

from jaxgen.types import Array


def slerp(a: Array, b: Array, w: Array | float) -> Array:
  """Spherical interpolation of each example (Shoemake 1985; DDIM App. D.5).

  sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b, theta the
  angle between the two. Where they are parallel it is linear.

  Args:
    a: `[B, ...]`.
    b: of a's shape.
    w: `[]` or `[B]`; 0 gives a, 1 gives b.

  Raises:
    ValueError: a and b differ in shape.
  """
  if a.shape != b.shape:
    raise ValueError(f"slerp needs one shape, got {a.shape} and {b.shape}")
  axes = tuple(range(1, a.ndim))
  norm = lambda x: jnp.sqrt((x**2).sum(axes, keepdims=True))
  product = norm(a) * norm(b)
  cosine = (a * b).sum(axes, keepdims=True) / jnp.maximum(product, 1e-30)
  theta = jnp.arccos(jnp.clip(cosine, -1, 1))
  w = jnp.reshape(jnp.asarray(w), (-1,) + (1,) * (a.ndim - 1))
  sine = jnp.sin(theta)
  parallel = sine < 1e-4
  safe = jnp.where(parallel, 1, sine)
  first = jnp.where(parallel, 1 - w, jnp.sin((1 - w) * theta) / safe)
  second = jnp.where(parallel, w, jnp.sin(w * theta) / safe)
  return first * a + second * b
