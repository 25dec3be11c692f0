"""BEiT v2's codebook: unit vectors that follow what they stand for.

Peng et al. 2022, "BEiT v2: Masked Image Modeling with Vector-Quantized Visual
Tokenizers", as its code (microsoft/unilm, beit2) has it. The codes have no
gradient and no loss of their own; a moving average moves them.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from jaxgen.nn.quantizers import Quantized, nearest, straight_through
from jaxgen.types import Array, Key

_TINY = 1e-12  # the least norm that is divided by
_EXACT = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class Codebook:
  """The codes, and how often they are used.

  Attributes:
    embedding: e, `[n, D]`, rows of norm 1.
    usage: `[n]`, the moving average of how often a batch chose each code; it
      starts at 0, and is 0 as long as nothing chose the code.
    started: bool `[]`, False until k-means has placed the codes.
  """

  embedding: Array
  usage: Array
  started: Array


def random_codebook(key: Key, num_codes: int, code_dim: int) -> Codebook:
  """Codes uniform on the sphere."""
  e = unit(jax.random.normal(key, (num_codes, code_dim)))
  return Codebook(e, jnp.zeros(num_codes), jnp.ones((), bool))


def waiting_codebook(num_codes: int, code_dim: int) -> Codebook:
  """Codes that `started` will place by k-means; zeros as yet."""
  e = jnp.zeros((num_codes, code_dim))
  return Codebook(e, jnp.zeros(num_codes), jnp.zeros((), bool))


def unit(x: Array) -> Array:
  """x / max(|x|, 1e-12) along the last axis, in float32."""
  x = x.astype(jnp.float32)
  square = jnp.square(x).sum(-1, keepdims=True)
  # The root of a maximum, for a gradient at 0.
  return x / jnp.sqrt(jnp.maximum(square, _TINY**2))


def quantize(z: Array, codebook: Codebook, beta: float = 1.0) -> Quantized:
  """The nearest codes of features on the sphere (Peng et al. 2022, VQ-KD).

      u = z / |z|,   k = argmin_k |u - e_k|,   z_q = u + sg(e_k - u)
      loss = beta mean |u - sg(e_k)|^2

  The mean runs over all numbers, channels included. The gradient of z_q is
  that of u, which then passes through the normalisation. The paper's other
  term, of sg(u), is what `updated` stands for.

  Args:
    z: `[..., D]`; quantised in float32.
    codebook: of n codes.
    beta: weight of the loss.

  Raises:
    ValueError: if the codes do not have D channels.
  """
  n, d = codebook.embedding.shape
  if z.shape[-1] != d:
    raise ValueError(
      f"quantize with {n} codes of {d} channels needs z [..., {d}], got "
      f"{z.shape}."
    )
  u = unit(z)
  e = jax.lax.stop_gradient(codebook.embedding)
  indices = nearest(u, e)
  codes = e[indices]
  loss = beta * jnp.mean(jnp.square(codes - u))
  return Quantized(straight_through(u, codes), indices, loss)


def updated(
  codebook: Codebook,
  z: Array,
  indices: Array,
  decay: float = 0.99,
  axis_name: str | None = None,
) -> Codebook:
  """The codebook after a batch of training.

  With n_k how often code k was chosen and s_k the sum of the unit vectors that
  chose it,

      m_k = unit(s_k / n_k), or e_k where n_k = 0
      e_k <- unit(decay e_k + (1 - decay) m_k)

  so that a code that nothing chose stays where it is. This is not the moving
  average of sums and counts of VQ-VAE (van den Oord et al. 2017, App. A.1).

  Args:
    codebook: that the indices were found with.
    z: `[..., D]`, before or after their normalisation.
    indices: `[...]`, of `quantize`.
    decay: of the averages.
    axis_name: of the devices of a `pmap` or `shard_map`, whose batches are
      taken together. Under `jit` the batch is the global one as it is.
  """
  counts, sums = _totals(unit(z), indices, len(codebook.embedding), axis_name)
  # Moved as from 1 to 1 where there is nothing, with no rounding.
  unused = (counts == 0)[:, None]
  means = unit(sums / jnp.maximum(counts, 1)[:, None])
  moved = unit(decay * codebook.embedding + (1 - decay) * means)
  embedding = jnp.where(unused, codebook.embedding, moved)
  return dataclasses.replace(
    codebook,
    embedding=jax.lax.stop_gradient(embedding),
    usage=decay * codebook.usage + (1 - decay) * counts,
  )


def counted(
  codebook: Codebook,
  indices: Array,
  decay: float = 0.99,
  axis_name: str | None = None,
) -> Codebook:
  """The codebook after a batch of evaluation: only `usage` has changed."""
  counts = _summed(
    jnp.bincount(indices.reshape(-1), length=len(codebook.usage)), axis_name
  )
  return dataclasses.replace(
    codebook, usage=decay * codebook.usage + (1 - decay) * counts
  )


def unused_codes(codebook: Codebook) -> Array:
  """How many codes nothing has chosen since `usage` was last zero, `[]`."""
  return (codebook.usage == 0).sum()


def kmeans(key: Key, z: Array, num_codes: int, iterations: int = 10) -> Array:
  """Centres of unit vectors, by Lloyd's algorithm with cosine similarity.

  The centres start as vectors of z, drawn without replacement if there are
  enough. In each iteration a centre becomes the normalised mean of the vectors
  that are most similar to it; one that has none stays.

  The original runs it on each device's batch by itself, so that its devices
  start with different codes; here z is the whole batch.

  Args:
    key: draws the first centres.
    z: `[..., D]`.
    num_codes: n.
    iterations: how many.

  Returns:
    `[n, D]`, rows of norm 1.
  """
  u = unit(z).reshape(-1, z.shape[-1])
  chosen = jax.random.choice(
    key, len(u), (num_codes,), replace=len(u) < num_codes
  )
  return lloyd(u, u[chosen], iterations)


def lloyd(u: Array, centres: Array, iterations: int) -> Array:
  """Moves centres `[n, D]` towards unit vectors u `[N, D]`; see `kmeans`."""

  def iterate(_, centres: Array) -> Array:
    similarity = jnp.matmul(u, centres.T, precision=_EXACT)
    counts, sums = _totals(u, similarity.argmax(-1), len(centres), None)
    means = unit(sums / jnp.maximum(counts, 1)[:, None])
    return jnp.where((counts == 0)[:, None], centres, means)

  return jax.lax.fori_loop(0, iterations, iterate, centres)


def started(
  key: Key, codebook: Codebook, z: Array, iterations: int = 10
) -> Codebook:
  """The codebook, its codes placed by `kmeans` on z if they were not yet."""

  def start() -> Codebook:
    e = kmeans(key, z, len(codebook.usage), iterations)
    return dataclasses.replace(
      codebook, embedding=e, started=jnp.ones((), bool)
    )

  z = jax.lax.stop_gradient(z)
  return jax.lax.cond(codebook.started, lambda: codebook, start)


def restarted(
  key: Key, codebook: Codebook, z: Array, threshold: float
) -> Codebook:
  """Codes that are hardly used begin anew at random vectors of a batch.

  Those whose share of `usage` is below threshold / n; they are given the mean
  usage, so that they have time to be chosen. BEiT v2 does not do this.

  Args:
    key: draws the vectors.
    codebook: after `updated`.
    z: `[..., D]`, the batch.
    threshold: 0 leaves the codebook alone; 1 would replace every code that is
      used less than the mean.
  """
  mean = codebook.usage.mean()
  dead = codebook.usage < threshold * mean
  u = unit(jax.lax.stop_gradient(z)).reshape(-1, z.shape[-1])
  chosen = jax.random.randint(key, dead.shape, 0, len(u))
  return dataclasses.replace(
    codebook,
    embedding=jnp.where(dead[:, None], u[chosen], codebook.embedding),
    usage=jnp.where(dead, mean, codebook.usage),
  )


def _totals(
  u: Array, indices: Array, n: int, axis_name: str | None
) -> tuple[Array, Array]:
  """Counts `[n]` and sums `[n, D]` of the vectors that chose each code."""
  u = jax.lax.stop_gradient(u).reshape(-1, u.shape[-1])
  # A product, as scattered sums differ from run to run on a GPU.
  chosen = jax.nn.one_hot(indices.reshape(-1), n, dtype=u.dtype)
  sums = jnp.matmul(chosen.T, u, precision=_EXACT)
  return _summed(chosen.sum(0), axis_name), _summed(sums, axis_name)


def _summed(x: Array, axis_name: str | None) -> Array:
  return x if axis_name is None else jax.lax.psum(x, axis_name)
