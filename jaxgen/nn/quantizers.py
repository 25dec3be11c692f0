"""Vector quantisation: features to the entries of a learned codebook."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.types import Array


class Quantized(NamedTuple):
  """What a quantizer makes of features z.

  Attributes:
    z_q: `[..., D]`, the codes chosen, with the gradient of z.
    indices: `[...]`, their places in the codebook.
    loss: `[]`, what training minimises beside the reconstruction.
  """

  z_q: Array
  indices: Array
  loss: Array


class VectorQuantizer(nn.Module):
  """VQ-VAE's quantizer (van den Oord et al. 2017, Eq. 1-3), as VQGAN has it.

      k(z) = argmin_k |z - e_k|^2,   z_q = z + sg(e_k - z)
      loss = mean |sg(z) - e_k|^2 + beta mean |z - sg(e_k)|^2

  sg stops gradients; the means run over all entries. The second term, the
  commitment, is the one that beta weighs in the paper, Eq. 3. VQGAN's code,
  and with it every published first stage of latent diffusion, weighs the first
  by mistake: `legacy`.

  Attributes:
    num_codes: entries of the codebook, n.
    code_dim: channels of an entry.
    beta: weight of one term.
    legacy: beta weighs the codebook's term, not the commitment.
  """

  num_codes: int
  code_dim: int
  beta: float = 0.25
  legacy: bool = True

  def setup(self):
    """The codebook `[n, D]` starts uniform in +- 1 / n."""
    bound = 1.0 / self.num_codes
    init = lambda key, shape: jax.random.uniform(
      key, shape, minval=-bound, maxval=bound
    )
    shape = (self.num_codes, self.code_dim)
    self.embedding = self.param("embedding", init, shape)

  def __call__(self, z: Array) -> Quantized:
    """Quantises z `[..., D]`, in float32.

    Raises:
      ValueError: if D is not `code_dim`.
    """
    if z.shape[-1] != self.code_dim:
      raise ValueError(
        f"VectorQuantizer with codes of {self.code_dim} channels needs z "
        f"[..., {self.code_dim}], got {z.shape}."
      )
    z = z.astype(jnp.float32)
    indices = nearest(z, self.embedding)
    e = self.lookup(indices)
    codebook = jnp.mean(jnp.square(e - jax.lax.stop_gradient(z)))
    commitment = jnp.mean(jnp.square(jax.lax.stop_gradient(e) - z))
    if self.legacy:
      loss = commitment + self.beta * codebook
    else:
      loss = codebook + self.beta * commitment
    return Quantized(straight_through(z, e), indices, loss)

  def lookup(self, indices: Array) -> Array:
    """The codes at indices `[...]`, `[..., D]`; NaN where there is no code."""
    return jnp.take(self.embedding, indices, axis=0, mode="fill")


def nearest(z: Array, codebook: Array) -> Array:
  """argmin_k |z|^2 + |e_k|^2 - 2 z.e_k, the first one where several are.

  Args:
    z: `[..., D]`.
    codebook: `[n, D]`.

  Returns:
    `[...]`, integers.
  """
  z, codebook = jax.lax.stop_gradient((z, codebook))
  # By default GPUs and TPUs round the factors of float32 products, which would
  # make the code chosen depend on the device.
  products = jnp.matmul(z, codebook.T, precision=jax.lax.Precision.HIGHEST)
  norms = jnp.square(codebook).sum(-1).reshape((1,) * (z.ndim - 1) + (-1,))
  distances = jnp.square(z).sum(-1, keepdims=True) + norms - 2 * products
  return jnp.argmin(distances, axis=-1)


def straight_through(z: Array, z_q: Array) -> Array:
  """z_q, with the gradient of z (Bengio et al. 2013)."""
  return z + jax.lax.stop_gradient(z_q - z)


def codebook_usage(indices: Array, num_codes: int) -> tuple[Array, Array]:
  """How much of a codebook is in use.

  With p_k the share of code k among the indices, the perplexity is
  exp(-sum_k p_k log p_k): n where all codes are equally frequent, 1 where only
  one occurs (van den Oord et al. 2017's code).

  Args:
    indices: of any shape.
    num_codes: n.

  Returns:
    (share of codes that occur, perplexity), both `[]`.
  """
  return usage_of(jnp.bincount(indices.reshape(-1), length=num_codes))


def usage_of(counts: Array) -> tuple[Array, Array]:
  """`codebook_usage` of how often each code occurs, `[n]`."""
  p = counts / counts.sum()
  entropy = -jax.scipy.special.xlogy(p, p).sum()
  return jnp.mean((counts > 0).astype(jnp.float32)), jnp.exp(entropy)
