"""The losses of latent diffusion's first stages, as functions of arrays.

Rombach et al. 2022, App. G, Eq. 25, and their code: the autoencoder minimises

    L_rec(x, D(E(x))) + w(step) d L_g + L_reg

and the discriminator w(step) L_d. L_rec is L1 and a perceptual distance; L_reg
the KL divergence or the quantizer's loss; d the adaptive weight of VQGAN
(Esser et al. 2021, Eq. 6-7); w is 0 before the discriminator's start.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.nn import posteriors, resample
from jaxgen.nn.posteriors import DiagonalGaussian
from jaxgen.types import Array


def reconstruction_errors(
  x: Array, x_hat: Array, perceptual: Array | float = 0.0
) -> Array:
  """|x - x_hat| of every value, plus the perceptual distance of its image.

  Args:
    x: images `[B, H, W, C]`.
    x_hat: their reconstructions.
    perceptual: a distance of every image `[B]`, already weighted (by 1 in
      Rombach et al. 2022): LPIPS, or `pyramid_distance`.

  Returns:
    `[B, H, W, C]`.

  Raises:
    ValueError: if the shapes differ.
  """
  if x.shape != x_hat.shape:
    raise ValueError(
      f"A reconstruction has the shape of its image {x.shape}, got "
      f"{x_hat.shape}."
    )
  perceptual = jnp.broadcast_to(perceptual, x.shape[:1])
  return jnp.abs(x - x_hat) + perceptual[:, None, None, None]


def laplace_nll(errors: Array, logvar: Array | float = 0.0) -> Array:
  """The reconstruction loss beside a KL divergence: a sum over each image.

      1/B sum (errors / exp(logvar) + logvar)

  The negative log-likelihood, up to a constant, of a Laplace distribution of
  scale exp(logvar) where errors are |x - x_hat|. Rombach et al. 2022's code
  has one logvar, starts it at 0 and does not give it to its optimizer: 0 in
  all published models.

  Args:
    errors: `[B, H, W, C]`, from `reconstruction_errors`.
    logvar: the logarithm of the scale, `[]`.
  """
  return jnp.sum(errors / jnp.exp(logvar) + logvar) / errors.shape[0]


def mean_error(errors: Array) -> Array:
  """The reconstruction loss beside a quantizer: a mean over all values."""
  return jnp.mean(errors)


def kl_loss(posterior: DiagonalGaussian, weight: float = 1e-6) -> Array:
  """weight / B sum KL(posterior || N(0, I)); 1e-6 in Rombach et al. 2022."""
  return weight * jnp.mean(posteriors.kl(posterior))


def hinge_d_loss(real: Array, fake: Array) -> Array:
  """1/2 (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x_hat))).

  The hinge loss of Lim & Ye 2017, halved as VQGAN's code has it.

  Args:
    real: logits of images, of any shape.
    fake: logits of reconstructions.
  """
  return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())


def vanilla_d_loss(real: Array, fake: Array) -> Array:
  """-1/2 (mean log D(x) + mean log(1 - D(x_hat))), D a sigmoid of logits.

  Goodfellow et al. 2014, Eq. 1, halved.

  Args:
    real: logits of images, of any shape.
    fake: logits of reconstructions.
  """
  terms = jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
  return 0.5 * terms


def generator_loss(fake: Array) -> Array:
  """-mean D(x_hat), of logits."""
  return -fake.mean()


def delayed(weight: Array | float, step: Array | int, start: int) -> Array:
  """w(step): `weight` from step `start` on, counted from 0, before it 0."""
  return jnp.where(jnp.asarray(step) < start, 0.0, weight)


def adaptive_weight(
  reconstruct: Callable[[Array], Array],
  kernel: Array,
  nll: Callable[[Array], Array],
  generator: Callable[[Array], Array],
  disc_weight: float = 0.5,
) -> Array:
  """VQGAN's weight of the adversarial loss (Esser et al. 2021, Eq. 7).

      d = disc_weight clip(|grad nll| / (|grad g| + 1e-4), 0, 1e4)

  with the gradients by the decoder's last kernel alone. From the features that
  it is applied to, the decoder is neither passed nor differentiated again:

      h = autoencoder.apply({"params": params}, z, method="decode_features")
      x_hat = lambda kernel: last_convolution(params, h, kernel)
      kernel = last_kernel(params)
      d = adaptive_weight(x_hat, kernel, nll, g)
      loss = nll(x_hat(kernel)) + d * g(x_hat(kernel))

  Args:
    reconstruct: the last kernel to x_hat `[B, H, W, C]`.
    kernel: where the gradients are taken.
    nll: x_hat to the reconstruction loss.
    generator: x_hat to the adversarial loss.
    disc_weight: 0.5 in Rombach et al. 2022's models with a KL divergence.

  Returns:
    d `[]`, without gradient.
  """
  kernel = jax.lax.stop_gradient(kernel)
  x_hat, pullback = jax.vjp(reconstruct, kernel)
  norms = [
    jnp.linalg.norm(pullback(jax.grad(loss)(x_hat))[0].reshape(-1))
    for loss in (nll, generator)
  ]
  ratio = jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, 1e4)
  return disc_weight * jax.lax.stop_gradient(ratio)


def pyramid_distance(x: Array, x_hat: Array, levels: int = 4) -> Array:
  """L1 distance of Laplacian pyramids, a stand-in for a perceptual distance.

      d = sum_j mean |L_j(x) - L_j(x_hat)|,  j = 0, ..., levels

  L_j = g_j - up(g_{j+1}) are the details that g_{j+1} = down(g_j), g_0 = x,
  loses, and L_levels = g_levels (Burt & Adelson 1983; Lap_1 of Bojanowski et
  al. 2018 up to a factor). down is the mean of 2 x 2 pixels, up the nearest
  neighbour. It compares pixels, not features: errors of every scale count
  alike, but not as people see them. It needs no weights.

  Args:
    x: images `[B, H, W, C]`.
    x_hat: images of the same shape.
    levels: how often the images are halved.

  Returns:
    `[B]`.

  Raises:
    ValueError: if the shapes differ or cannot be halved so often.
  """
  fits = x.ndim == 4 and x.shape == x_hat.shape
  if not fits or x.shape[1] % 2**levels or x.shape[2] % 2**levels:
    raise ValueError(
      f"pyramid_distance with {levels} levels needs two batches of one shape "
      f"[B, H, W, C], H and W divisible by {2**levels}, got {x.shape} and "
      f"{x_hat.shape}."
    )
  total = jnp.zeros(len(x))
  g = x - x_hat  # the pyramid is linear
  for _ in range(levels):
    coarse = resample.downsample(g)
    total += jnp.abs(g - resample.upsample(coarse)).mean((1, 2, 3))
    g = coarse
  return total + jnp.abs(g).mean((1, 2, 3))
