"""One training step, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.training.optimizers import EmaDecay, update_ema
from jaxgen.training.parallel import compute_sharding, state_sharding
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
  accumulate: int = 1,
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
    accumulate: micro-batches that the batch is worked through in, for
      activations that many times smaller. Micro-batch m has the key
      fold_in(key, m); loss, metrics and gradient are means over them, so the
      loss must be a mean over examples to be that of the whole batch. A memory
      goes from one to the next.

  Returns:
    The step. Its metrics are those of `loss_fn`, `loss`, and `grad_norm`, the
    global norm of the gradient before clipping.

  Raises:
    ValueError: `accumulate` is not positive; and the step, where the batch is
      not a multiple of micro-batches that all devices have a share of.
  """
  if accumulate < 1:
    raise ValueError(f"accumulate must be at least 1, got {accumulate}")
  replicated = NamedSharding(mesh, PartitionSpec())

  def gathered_loss(params, key, batch, memory):
    # Every device works on its examples with whole parameters, or with its
    # part by `tensor`. Left to itself, the compiler may follow the split by
    # `fsdp` into the network.
    whole = jax.lax.with_sharding_constraint(
      params, compute_sharding(mesh, params)
    )
    return _call(loss_fn, whole, key, batch, memory)

  grad_fn = jax.value_and_grad(gathered_loss, has_aux=True)

  def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    if accumulate == 1:
      (loss, (metrics, memory)), grads = grad_fn(
        state.params, key, batch, state.memory
      )
    else:
      batches = _micro_batches(mesh, batch, accumulate)
      (loss, (metrics, memory)), grads = _accumulated(
        grad_fn, state, key, batches, mesh
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


def _micro_batches(mesh: Mesh, batch: Any, count: int) -> Any:
  """Arrays `[count, B / count, ...]`, each device's rows its own as before."""
  share = mesh.shape["data"] * mesh.shape["fsdp"]

  def split(x: Array) -> Array:
    if x.ndim == 0 or x.shape[0] % (count * share):
      raise ValueError(
        f"a batch for {count} micro-batches over {share} devices must be a "
        f"multiple of {count * share}, got shape {list(x.shape)}"
      )
    # Micro-batch m takes the rows i with i mod count = m: some of every device.
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

  place = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
  return jax.lax.with_sharding_constraint(jax.tree.map(split, batch), place)


def _accumulated(
  grad_fn: Callable[..., Any],
  state: TrainState,
  key: Key,
  batches: Any,
  mesh: Mesh,
) -> tuple[tuple[Array, tuple[Metrics, PyTree]], PyTree]:
  """What `grad_fn` returns, as means over micro-batches."""

  def add(carry, part):
    memory, total = carry
    m, batch = part
    (loss, (metrics, memory)), grads = grad_fn(
      state.params, jax.random.fold_in(key, m), batch, memory
    )
    # The sum lies where the parameters do, split.
    grads = jax.lax.with_sharding_constraint(grads, state_sharding(mesh, grads))
    total = jax.tree.map(jnp.add, total, (loss, metrics, grads))
    return (memory, total), None

  count = jax.tree.leaves(batches)[0].shape[0]
  first = jax.tree.map(lambda x: x[0], batches)
  (loss, (metrics, _)), grads = jax.eval_shape(
    grad_fn, state.params, key, first, state.memory
  )
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), (loss, metrics, grads)
  )
  (memory, total), _ = jax.lax.scan(
    add, (state.memory, zeros), (jnp.arange(count), batches)
  )
  loss, metrics, grads = jax.tree.map(lambda x: x / count, total)
  return (loss, (metrics, memory)), grads


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
  if taken := {"loss", "grad_norm", "skipped"} & set(metrics):
    raise ValueError(f"loss_fn may not name a metric {sorted(taken)[0]!r}")
  return loss, (dict(metrics), memory)
