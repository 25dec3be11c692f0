"""AdamW with a smaller rate for the earlier blocks of a transformer.

Clark et al. 2020, "ELECTRA", App. B; Bao et al. 2022, "BEiT", App. D.
"""

from collections.abc import Callable, Collection
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxgen.training.optimizers import cosine_between
from jaxgen.types import Array, PyTree

Rate = float | Callable[[Array], Array]

# BEiT-3's, in the second line: of them images' positions alone are not decayed.
_EMBEDDINGS = (
  *("cls_token", "mask_token", "pos_embed", "patch_embed"),
  *("text_embed", "vision_positions", "text_positions"),
)
_NOT_DECAYED = ("cls_token", "pos_embed", "vision_positions")


def rate_scales(params: PyTree, num_layers: int, decay: float) -> PyTree:
  """What each parameter's rate is multiplied by: decay^(num_layers + 1 - i).

  i is 0 for the tokens' embeddings, k + 1 for "block_k" counted from 0, and
  num_layers + 1 for the rest: heads, their normalisations and what the blocks
  share.

  Args:
    params: of a network with a vision transformer of `jaxgen.nn.vit`'s names.
    num_layers: its blocks.
    decay: in (0, 1]; the paper's 0.65 for BEiT-B, 0.75 for BEiT-L.

  Returns:
    Numbers, in params' structure.

  Raises:
    ValueError: decay is out of range, or there are more blocks.
  """
  if not 0 < decay <= 1:
    raise ValueError(f"decay must lie in (0, 1], got {decay}")

  def scale(path, _):
    names = [entry.key for entry in path]
    layer = num_layers + 1
    if any(name in _EMBEDDINGS for name in names):
      layer = 0
    for name in names:
      if name.startswith("block_"):
        layer = int(name.removeprefix("block_")) + 1
    if layer > num_layers + 1:
      raise ValueError(
        f"rate_scales was told of {num_layers} blocks and found {names}"
      )
    return decay ** (num_layers + 1 - layer)

  return jax.tree_util.tree_map_with_path(scale, params)


def decayed(params: PyTree, left_out: Collection[str] = _NOT_DECAYED) -> PyTree:
  """Which parameters weight decay acts on: neither vectors nor positions.

  Left out are those of one axis (biases, scales, gammas), the class token and
  absolute positions; the mask token and tables of relative positions are not.
  The released code for segmentation leaves out those of one axis alone: it
  looks for "cls_token" and "pos_embed" where the names begin with "backbone.".

  Args:
    params: of a network.
    left_out: names of parameters, besides those of one axis.
  """

  def keep(path, leaf):
    return jnp.ndim(leaf) > 1 and path[-1].key not in left_out

  return jax.tree_util.tree_map_with_path(keep, params)


def layer_decay_adamw(
  rate: Rate,
  num_layers: int,
  *,
  decay: float = 1.0,
  weight_decay: float = 0.05,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  clip_norm: float | None = None,
  left_out: Collection[str] = _NOT_DECAYED,
) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter 2019) with `rate_scales` and `decayed`.

  Both the step and the weight decay of a parameter follow its own rate.

  Args:
    rate: of the last layer, a number or schedule.
    num_layers: blocks of the transformer.
    decay: see `rate_scales`; 1 in pre-training.
    weight_decay: at a rate of 1.
    b1, b2, eps: Adam's.
    clip_norm: of the whole gradient, if it is clipped.
    left_out: what is not decayed, see `decayed`.
  """
  mask = partial(decayed, left_out=left_out)

  def scale(updates, state, params=None):
    del params
    scales = rate_scales(updates, num_layers, decay)
    return jax.tree.map(lambda u, s: u * s, updates, scales), state

  steps = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
  steps.append(
    optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)
  )
  steps.append(
    optax.GradientTransformation(lambda _: optax.EmptyState(), scale)
  )
  return optax.chain(*steps)


def warmed_up_cosine(
  rate: float, final: float, warmup: int, steps: int
) -> Callable[[Array], Array]:
  """BEiT's schedule: linear from 0, then half a cosine to `final`.

  As the released code lists it: linspace(0, rate, warmup), both ends included,
  then final + (rate - final) (1 + cos(pi i / n)) / 2 for i < n = steps -
  warmup.

  Args:
    rate: the highest.
    final: the lowest.
    warmup: steps of the first part.
    steps: of both.
  """

  def schedule(step: Array) -> Array:
    up = rate * step / max(1, warmup - 1)
    down = cosine_between(step - warmup, rate, final, max(1, steps - warmup))
    return jnp.where(step < warmup, up, down)

  return schedule


def warmed_up_poly(
  rate: float,
  steps: int,
  warmup: int,
  warmup_ratio: float = 1e-6,
  power: float = 1.0,
  final: float = 0.0,
) -> Callable[[Array], Array]:
  """mmcv's polynomial schedule, which BEiT's segmentation is trained with.

  final + (rate - final) (1 - i / steps)^power at step i = 0, 1, ...; for i <
  warmup times 1 - (1 - i / warmup) (1 - warmup_ratio).

  Args:
    rate: the highest, but for the warm-up.
    steps: after how many the rate is `final`.
    warmup: steps of the warm-up; 0 for none.
    warmup_ratio: the first step's share of its rate.
    power: 1 is a straight line.
    final: the lowest.
  """

  def schedule(step: Array) -> Array:
    left = jnp.clip(1 - step / steps, 0.0, 1.0)
    down = final + (rate - final) * left**power
    lacking = jnp.clip(1 - step / max(1, warmup), 0.0, 1.0)
    if not warmup:
      return down
    return down * (1 - lacking * (1 - warmup_ratio))

  return schedule
