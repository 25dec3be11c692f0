"""Attention, and DDPM's over the positions of a feature map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxgen.nn.layers import GroupNorm, dense
from jaxgen.types import Array


def attention(
  q: Array,
  k: Array,
  v: Array,
  *,
  bias: Array | None = None,
  mask: Array | None = None,
  query_chunk: int | None = None,
  flash: bool = False,
) -> Array:
  """Multi-head attention: softmax(q k^T / sqrt(d) + bias) v.

  The softmax is taken in float32 and its division done last, on d numbers in
  place of S: on a CPU twice as fast as `jax.nn.dot_product_attention`.

  Args:
    q: `[B, T, heads, d]`.
    k: `[B, S, heads, d]`.
    v: `[B, S, heads, d]`.
    bias: added to the logits, broadcastable to `[B, heads, T, S]`.
    mask: the same, False where nothing is seen; every query must see a key.
    query_chunk: how many queries attend at a time, all if None. The matrix of
      weights, which is what takes memory in large images, is then of
      query_chunk x S in place of T x S. Not with a bias or mask.
    flash: use cuDNN's attention, which holds no such matrix, where it exists:
      in half precision, for d up to 128 that 8 divides, without bias and mask.
      It needs a GPU.

  Returns:
    `[B, T, heads, d]`, of q's dtype.

  Raises:
    ValueError: if a chunk has no queries, or there is a bias or mask with it.
  """
  plain = bias is None and mask is None
  if query_chunk is not None and query_chunk < 1:
    raise ValueError(f"attention needs query_chunk >= 1, got {query_chunk}.")
  if query_chunk is not None and not plain:
    raise ValueError("attention in chunks of queries takes no bias or mask.")
  d = q.shape[-1]
  if flash and plain and q.dtype.itemsize == 2 and d <= 128 and d % 8 == 0:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
  if query_chunk is None or query_chunk >= q.shape[1]:
    return _attention(q, k, v, bias, mask)

  @jax.checkpoint  # else the chunks' matrices are kept for the backward pass
  def one(q):  # [B, heads, d]
    return _attention(q[:, None], k, v, None, None)[:, 0]

  out = jax.lax.map(one, q.swapaxes(0, 1), batch_size=query_chunk)
  return out.swapaxes(0, 1)


def _attention(
  q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None
) -> Array:
  dtype = q.dtype
  q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
  wide = {"preferred_element_type": jnp.float32}
  logits = jnp.einsum("bhtd,bhsd->bhts", q, k, **wide)
  if bias is not None:
    logits += bias.astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(mask, logits, -jnp.inf)
  top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
  p = jnp.exp(logits - top)
  y = jnp.einsum("bhts,bhsd->bhtd", p.astype(dtype), v, **wide)
  return (y / p.sum(-1, keepdims=True)).astype(dtype).swapaxes(1, 2)


class AttentionBlock(nn.Module):
  """DDPM's residual self-attention: one head over all H x W positions.

  x + proj_out(softmax(q k^T / sqrt(C)) v), with q, k, v = dense(norm(x)). The
  softmax is taken in float32.

  Attributes:
    dtype: of the computation; parameters are float32.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x `[B, H, W, C]` to its own shape."""
    b, h, w, c = x.shape
    y = GroupNorm(dtype=self.dtype, name="norm")(x)
    q, k, v = (
      dense(c, name, dtype=self.dtype)(y).reshape(b, h * w, 1, c)
      for name in ("q", "k", "v")
    )
    y = attention(q, k, v).reshape(b, h, w, c)
    return x + dense(c, "proj_out", init_scale=0.0, dtype=self.dtype)(y)
