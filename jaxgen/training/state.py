"""What training changes, in one frozen pytree."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxgen.types import Array, Key, PyTree


@flax.struct.dataclass
class TrainState:
  """All that a training step reads and replaces.

  Attributes:
    step: number of updates made so far, int32 `[]`.
    params: the network's parameters.
    ema: their exponential moving average, same shapes.
    opt_state: the optimizer's state.
    key: the run's random key. It never changes: a step draws from
      `fold_in(key, step)`, so that its noise does not depend on history.
    memory: what the loss remembers between steps and no gradient changes, such
      as the loss history of importance sampling; () if nothing.
  """

  step: Array
  params: PyTree
  ema: PyTree
  opt_state: optax.OptState
  key: Key
  memory: PyTree = ()


def init_state(
  params: PyTree,
  optimizer: optax.GradientTransformation,
  key: Key,
  memory: PyTree = (),
) -> TrainState:
  """The state before the first update; the average starts as a copy.

  Args:
    params: initial parameters.
    optimizer: an optax optimizer.
    key: a key made by `jax.random.key`.
    memory: what the loss remembers at first.

  Raises:
    TypeError: the key is an old uint32 key.
  """
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    raise TypeError(
      f"key must be made by jax.random.key, got {key.dtype}{list(key.shape)}"
    )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.copy, params),
    opt_state=optimizer.init(params),
    key=key,
    memory=memory,
  )
