"""Controllable generation, start points from images, and paths in x_T.

`impute` and its kin take a sampler to a sampler. After each of its steps, what
is known of the image is put in its place at the noise level reached (Song et
al. 2021, App. I.2): the unknown part is sampled from an approximation of its
distribution given the known part, which is exact where they are independent.
Wrap a `predictor_corrector` to have its predictor and corrector work on it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import random
from jaxgen.diffusion.gaussian import normal_like, q_sample
from jaxgen.diffusion.guidance import LogProb
from jaxgen.diffusion.processes import Process, marginal
from jaxgen.diffusion.samplers import Sampler
from jaxgen.diffusion.times import check_times
from jaxgen.types import Array, Key, Network

_KNOWN = 2**30  # the stream of keys for the noise of the known part


def impute(
  process: Process,
  sampler: Sampler,
  known: Array,
  project: Callable[[Array], Array],
) -> Sampler:
  """x_s <- x_s - P x_s + P (alpha_s known + sigma_s z) after every step.

  The imputation of Song et al. 2021, App. I.2, for any orthogonal projection P:
  `inpaint`, `colorize` and `linear_inverse` are instances. At a step to
  sigma_s = 0 the known part is exact.

  Args:
    process: the forward process.
    sampler: any.
    known: `[B, ...]`, of which P known matters.
    project: P, x `[B, ...]` -> P x; linear, with P P = P symmetric.
  """

  def step(key, x_t, t, s, memory):
    x_s, memory = sampler.step(key, x_t, t, s, memory)
    alpha_s, sigma_s = marginal(process, s, x_s)
    z = normal_like(random.fold_in(key, _KNOWN), x_s)
    return x_s + project(alpha_s * known + sigma_s * z - x_s), memory

  return sampler._replace(step=step)


def inpaint(
  process: Process, sampler: Sampler, known: Array, mask: Array
) -> Sampler:
  """Fills an image in (Song et al. 2021, section 5 and App. I.2).

  Latent diffusion's samplers put the known part in its place before each step
  instead of after it. The unknown part is then that of this function from a
  start point whose known part is noised to times[0]; the known part ends as the
  last step leaves it. On a grid that ends above data, such as `sd1_times`, this
  function leaves it with the noise of that level.

  Args:
    process: the forward process.
    sampler: any.
    known: images `[B, ...]`.
    mask: 1 where they are known, 0 where not; broadcasts to them, and has as
      many axes.
  """
  mask = jnp.asarray(mask, known.dtype)
  if mask.ndim != known.ndim:
    raise ValueError(
      f"inpaint needs a mask of {known.ndim} axes to broadcast to images of "
      f"shape {known.shape}, got {mask.shape}"
    )
  return impute(process, sampler, known, lambda x: mask * x)


def image_to_image(
  process: Process,
  key: Key,
  x_0: Array,
  times: Array | np.ndarray,
  strength: float,
) -> tuple[Array, Array | np.ndarray]:
  """Where to start from an image: SDEdit (Meng et al. 2022, section 3).

  Of the n steps of a grid the last k = int(strength n) are left: x = alpha_t
  x_0 + sigma_t eps at t = times[n - k], and the grid from there on, both for
  `sample`. This is the img2img of diffusers. Stable Diffusion's own script adds
  the noise of times[n - k - 1], a level more, and so cannot take strength 1:

    x, _ = q_sample(process, key, x_0, times[n - k - 1])

  Args:
    process: the forward process.
    key: one key, or a batch of keys `[B]`, one per example.
    x_0: images or latents, `[B, ...]`.
    times: descending `[n + 1]`.
    strength: in (0, 1]; at 1 the image is left in x_T as in training.

  Returns:
    (x, times): `[B, ...]` and `[k + 1]`.

  Raises:
    ValueError: times do not descend, or strength lies outside (0, 1] or is too
      small for one step.
  """
  check_times(times, process.T)
  if not isinstance(times, jax.core.Tracer) and times[0] < times[-1]:
    raise ValueError(
      f"image_to_image needs times that descend, got {times[0]:g}, ..., "
      f"{times[-1]:g}"
    )
  n = len(times) - 1
  if not 0 < strength <= 1 or int(strength * n) < 1:
    raise ValueError(
      "image_to_image needs a strength in (0, 1] that leaves one of "
      f"{n} steps, got {strength}"
    )
  rest = times[n - int(strength * n) :]
  return q_sample(process, key, x_0, rest[0])[0], rest


def colorize(process: Process, sampler: Sampler, grey: Array) -> Sampler:
  """Gives grey images colour (Song et al. 2021, section 5 and App. I.3).

  Known is the mean of the channels, which is one axis of an orthogonal
  transformation of the colours; the others are free.

  Args:
    process: the forward process.
    sampler: of images with any number of channels.
    grey: means of the channels, `[B, H, W, 1]`.
  """
  if grey.shape[-1] != 1:
    raise ValueError(
      f"colorize needs grey images [B, H, W, 1], got shape {grey.shape}"
    )

  def project(x: Array) -> Array:
    return jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape)

  return impute(process, sampler, grey, project)


def linear_inverse(
  process: Process, sampler: Sampler, y: Array, A: Array
) -> Sampler:
  """Samples x with A x = y: a general linear inverse problem.

  Song et al. 2021, App. I.4 for measurements without noise: the projection is
  P = A^+ A onto the rows of A, the known part A^+ y.

  Args:
    process: the forward process.
    sampler: any.
    y: measurements `[B, M]`.
    A: `[M, D]` for flattened examples of D dimensions, of full row rank.
  """
  if A.ndim != 2 or y.ndim != 2 or y.shape[1] != A.shape[0]:
    raise ValueError(
      f"linear_inverse needs y [B, M] and A [M, D], got {y.shape} and {A.shape}"
    )
  inverse = jnp.linalg.pinv(A)

  def project(x: Array) -> Array:
    return ((x.reshape(len(x), -1) @ A.T) @ inverse.T).reshape(x.shape)

  def step(key, x_t, t, s, memory):
    known = (y @ inverse.T).reshape(x_t.shape)
    return impute(process, sampler, known, project).step(key, x_t, t, s, memory)

  return sampler._replace(step=step)


def class_log_prob(classifier: Network, labels: Array) -> LogProb:
  """log p(label | x_t) of a noise-conditional classifier.

  For `classifier_guided`, with scale 1 the class-conditional reverse SDE (Song
  et al. 2021, Eq. 14 and section 5).

  Args:
    classifier: (x_t `[B, ...]`, t `[B]`) -> logits `[B, K]`.
    labels: integers `[B]`.
  """

  def log_prob(x_t: Array, t: Array) -> Array:
    logits = jax.nn.log_softmax(classifier(x_t, t))
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

  return log_prob


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
