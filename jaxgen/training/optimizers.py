"""Adam as DDPM uses it, and exponential moving averages of parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxgen.types import Array, PyTree

# Number of this update, counted from 1 -> decay in [0, 1].
EmaDecay = Callable[[Array], Array | float]


def adam(
  lr: float,
  warmup_steps: int = 0,
  clip_norm: float | None = None,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  decay_steps: int | None = None,
) -> optax.GradientTransformation:
  """Clipping by global norm, then Adam, with linear warm-up and decay.

  Gradients g become g min(1, clip_norm / |g|); Adam is Kingma & Ba 2015,
  Algorithm 1; update number n = 0, 1, ... has the rate
  lr min(1, n / warmup_steps) max(0, 1 - n / decay_steps), so that under
  warm-up the very first update leaves the parameters alone, as in DDPM's code
  (Ho et al. 2020, Appendix B: lr 2e-4, warm-up 5000, norm 1). TensorFlow's
  Adam, which that code calls, differs in adding eps before the bias
  correction.

  Args:
    lr: learning rate after the warm-up.
    warmup_steps: length of the warm-up; 0 for a constant rate.
    clip_norm: largest allowed norm of the whole gradient; None for no limit.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the bias-corrected second moment.
    decay_steps: update at which the rate has fallen to 0 (the `lr_anneal_steps`
      of improved DDPM's code); None for no decay.

  Raises:
    ValueError: `warmup_steps` is negative, or `clip_norm` or `decay_steps` is
      not positive.
  """
  if warmup_steps < 0:
    raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")
  if clip_norm is not None and not clip_norm > 0:
    raise ValueError(f"clip_norm must be positive or None, got {clip_norm}")
  clip = optax.identity()
  if clip_norm is not None:
    clip = optax.clip_by_global_norm(clip_norm)
  if decay_steps is not None and decay_steps < 1:
    raise ValueError(f"decay_steps must be positive or None, got {decay_steps}")
  warmup, decay = optax.constant_schedule(lr), optax.constant_schedule(1.0)
  if warmup_steps:
    warmup = optax.linear_schedule(0.0, lr, warmup_steps)
  if decay_steps:
    decay = optax.linear_schedule(1.0, 0.0, decay_steps)
  rate = lambda n: warmup(n) * decay(n)
  return optax.chain(clip, optax.adam(rate, b1, b2, eps))


def constant_ema(decay: float) -> EmaDecay:
  """The same decay at every update (DDPM: 0.9999)."""
  _check_decay(decay)
  return lambda n: decay


def warmed_up_ema(decay: float) -> EmaDecay:
  """min(decay, (1 + n) / (10 + n)) at update n = 1, 2, ...

  It forgets the initial weights sooner; latent diffusion (Rombach et al.
  2022) and the PyTorch score SDE (Song et al. 2021) train with it.
  """
  _check_decay(decay)
  return lambda n: jnp.minimum(decay, (1.0 + n) / (10.0 + n))


def update_ema(ema: PyTree, params: PyTree, decay: Array | float) -> PyTree:
  """decay ema + (1 - decay) params, leaf by leaf.

  Written as an increment, which loses less to rounding near decay = 1.
  """
  return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), ema, params)


def _check_decay(decay: float) -> None:
  if not 0.0 <= decay <= 1.0:
    raise ValueError(f"an EMA decay lies in [0, 1], got {decay}")


def cosine_between(
  step: Array | int, start: float, end: float, steps: int
) -> Array:
  """From start to end in so many steps along half a cosine, then end.

  DALL-E's schedules (Ramesh et al. 2021, App. A.2) of beta (0 to 6.6 in 5,000),
  of the temperature (1 to 1/16 in 150,000) and of the learning rate (1e-4 to
  1.25e-6 in 1,200,000).
  """
  done = jnp.clip(step / steps, 0.0, 1.0)
  return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * done))
