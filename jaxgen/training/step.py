"""One training step, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.training.optimizers import EmaDecay, update_ema
from jaxgen.training.parallel import state_sharding
from jaxgen.training.state import TrainState
from jaxgen.types import Array, Key, PyTree

Metrics = dict[str, Array]

# (params, key, batch) -> the mean loss [], or that and a dict of scalars. Where
# the state has a memory: (params, key, batch, memory) -> (loss, dict, memory).
LossFn = Callable[..., Any]
TrainStep = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def make_train_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  ema_decay: EmaDecay,
  mesh: Mesh,
) -> TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`.

  Gradient, optimizer, then average: ema <- d ema + (1 - d) params, where
  d = ema_decay(n) at update n = 1, 2, ... The loss is a mean over the global
  batch, and its noise is drawn for the global batch: the numbers do not
  depend on the mesh, up to the rounding of sums.

  The state passed in is donated: use the returned one only.

  Args:
    loss_fn: `(params, key, batch) -> loss`, or `-> (loss, metrics)`; where
      `state.memory` is not empty, `(params, key, batch, memory) -> (loss,
      metrics, memory)`, with the memory for the next step.
    optimizer: the one that made `state.opt_state`.
    ema_decay: `constant_ema(d)` or `warmed_up_ema(d)`.
    mesh: the mesh on which state and batch live.

  Returns:
    The step. Its metrics are those of `loss_fn`, `loss`, and `grad_norm`, the
    global norm of the gradient before clipping.
  """

  replicated = NamedSharding(mesh, PartitionSpec())

  def gathered_loss(params, key, batch, memory):
    # Every device works on its examples with whole parameters. Left to
    # itself, the compiler may follow the parameters' split into the network.
    whole = jax.lax.with_sharding_constraint(params, replicated)
    return _call(loss_fn, whole, key, batch, memory)

  def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    grad_fn = jax.value_and_grad(gathered_loss, has_aux=True)
    (loss, (metrics, memory)), grads = grad_fn(
      state.params, key, batch, state.memory
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    new_state = TrainState(
      step=step,
      params=params,
      ema=update_ema(state.ema, params, ema_decay(step)),
      opt_state=opt_state,
      key=state.key,
      memory=memory,
    )
    metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    # Pinned, or the compiler might choose other places for the outputs than
    # the inputs had, and the second call would compile again.
    places = state_sharding(mesh, new_state)
    return (
      jax.lax.with_sharding_constraint(new_state, places),
      jax.lax.with_sharding_constraint(metrics, replicated),
    )

  return jax.jit(train_step, donate_argnums=0)


def _call(
  loss_fn: LossFn, params: PyTree, key: Key, batch: Any, memory: PyTree
) -> tuple[Array, tuple[Metrics, PyTree]]:
  """The loss, its metrics, {} if it has none, and its memory."""
  if jax.tree.leaves(memory):
    loss, metrics, memory = loss_fn(params, key, batch, memory)
  else:
    result = loss_fn(params, key, batch)
    loss, metrics = result if isinstance(result, tuple) else (result, {})
  if loss.shape:
    raise ValueError(f"loss_fn must return a scalar, got {list(loss.shape)}")
  if taken := {"loss", "grad_norm"} & set(metrics):
    raise ValueError(f"loss_fn may not name a metric {sorted(taken)[0]!r}")
  return loss, (dict(metrics), memory)
