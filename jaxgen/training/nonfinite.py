"""Steps that a single bad batch does not ruin."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.training.parallel import state_sharding
from jaxgen.training.state import TrainState
from jaxgen.training.step import Metrics, TrainStep
from jaxgen.types import Array, PyTree


def skip_nonfinite(train_step: TrainStep, mesh: Mesh) -> TrainStep:
  """A step that changes nothing where its loss or gradient is not finite.

  Parameters, average, optimizer and memory are then those before, while the
  step's number counts on, so that the next step has its own noise and batch.
  The choice is made on the devices, as part of the compiled step: no step waits
  for the host to look at it. `Log` does that later, and tells.

  The state passed in is donated, as to `train_step`.

  Args:
    train_step: from `make_train_step`, or any with its metrics `loss` and
      `grad_norm`, whose calls may be compiled.
    mesh: the mesh on which state and batch live.

  Returns:
    The step; its metrics have `skipped` too, 1 where it was and else 0.
  """
  replicated = NamedSharding(mesh, PartitionSpec())

  def careful_step(
    state: TrainState, batch: PyTree
  ) -> tuple[TrainState, Metrics]:
    new, metrics = train_step(state, batch)
    good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

    def choose(after: Array, before: Array) -> Array:
      return jnp.where(good, after, before)

    chosen = {
      name: jax.tree.map(choose, getattr(new, name), getattr(state, name))
      for name in ("params", "ema", "opt_state", "memory")
    }
    new = dataclasses.replace(new, **chosen)
    metrics = metrics | {"skipped": (~good).astype(jnp.float32)}
    return (
      jax.lax.with_sharding_constraint(new, state_sharding(mesh, new)),
      jax.lax.with_sharding_constraint(metrics, replicated),
    )

  return jax.jit(careful_step, donate_argnums=0)
