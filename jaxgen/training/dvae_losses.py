"""The losses of discrete autoencoders, DALL-E's and BEiT's own.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.1 and App.
A.2, A.3; Bao et al. 2022, "BEiT", App. C, and the released code.
"""

import jax
import jax.numpy as jnp
import optax

from jaxgen.types import Array, Key


def gumbel_softmax(key: Key, logits: Array, tau: Array | float) -> Array:
  """A relaxed sample of a categorical distribution (Jang et al. 2017).

  softmax((logits + g) / tau) with Gumbel noise g; as tau -> 0 the one-hot
  vectors of exact samples.

  Args:
    key: of the noise.
    logits: `[..., K]`.
    tau: the temperature, above 0.
  """
  g = jax.random.gumbel(key, logits.shape, logits.dtype)
  return jax.nn.softmax((logits + g) / tau, axis=-1)


def kl_to_uniform(logits: Array) -> Array:
  """KL of softmax(logits) from the uniform distribution, nats: `[...]`.

  sum_k q_k log q_k + log K, for logits `[..., K]`.
  """
  log_q = jax.nn.log_softmax(logits, axis=-1)
  return (jnp.exp(log_q) * log_q).sum(-1) + jnp.log(logits.shape[-1])


def logit_laplace_nll(x: Array, mu: Array, log_b: Array) -> Array:
  """-log of the logit-Laplace density (App. A.3), of each pixel.

  f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)).

  Args:
    x: in (0, 1), from `map_pixels`.
    mu: location of the logit.
    log_b: logarithm of its scale.
  """
  logit = jnp.log(x) - jnp.log1p(-x)
  distance = jnp.abs(logit - mu) * jnp.exp(-log_b)
  return distance + log_b + jnp.log(2 * x * (1 - x))


def dvae_loss(
  x: Array, outputs: Array, logits: Array, beta: Array | float
) -> tuple[Array, dict[str, Array]]:
  """The bound of App. A.2, in nats per number of an image.

  (sum over pixels of the nll + beta sum over positions of the KL) / (H W C).

  Args:
    x: images `[B, H, W, C]` from `map_pixels`.
    outputs: of the decoder, `[B, H, W, 2 C]`: mu, then log b.
    logits: of the encoder, `[B, h, w, K]`.
    beta: weight of the KL; the paper's rises to 6.6.

  Returns:
    The loss, and "nll" and "kl": per number, and per position.

  Raises:
    ValueError: the shapes do not agree.
  """
  if outputs.shape != (*x.shape[:3], 2 * x.shape[3]):
    raise ValueError(
      f"dvae_loss needs outputs {(*x.shape[:3], 2 * x.shape[3])} for images "
      f"{x.shape}, got {outputs.shape}"
    )
  mu, log_b = jnp.split(outputs, 2, axis=-1)
  nll = logit_laplace_nll(x, mu, log_b).mean()
  kl = kl_to_uniform(logits).mean()
  positions = logits.shape[1] * logits.shape[2]
  numbers = x.shape[1] * x.shape[2] * x.shape[3]
  return nll + beta * kl * positions / numbers, {"nll": nll, "kl": kl}


def discrete_vae_loss(
  x: Array,
  x_hat: Array,
  logits: Array,
  kl_weight: Array | float = 0.0,
  smooth_l1: bool = False,
) -> tuple[Array, dict[str, Array]]:
  """The loss of BEiT's own discrete autoencoder (Bao et al. 2022, App. C).

  mean error + kl_weight (sum over positions of the KL, mean over images). The
  released code, whose weight is 0, does not divide its KL by the number of
  images: its weight w is `kl_weight` = w B here.

  Args:
    x: images `[B, H, W, C]`.
    x_hat: of the decoder, of the same shape.
    logits: of the encoder, `[B, h, w, K]`.
    kl_weight: of the KL divergence from the uniform distribution, in nats.
    smooth_l1: the error of a number is min(d^2 / 2, |d| - 1 / 2) for a
      difference d, not d^2.

  Returns:
    The loss, and "error" and "kl": per number, and per position.

  Raises:
    ValueError: the shapes do not agree.
  """
  if x.shape != x_hat.shape:
    raise ValueError(
      f"discrete_vae_loss needs x_hat of the images' shape {x.shape}, got "
      f"{x_hat.shape}"
    )
  x, x_hat = x.astype(jnp.float32), x_hat.astype(jnp.float32)
  errors = optax.huber_loss(x_hat, x) if smooth_l1 else jnp.square(x_hat - x)
  error, kl = errors.mean(), kl_to_uniform(logits).mean()
  positions = logits.shape[1] * logits.shape[2]
  return error + kl_weight * kl * positions, {"error": error, "kl": kl}
