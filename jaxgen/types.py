"""Type names that every module shares."""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array
Key = jax.Array  # jax.random.key(0); a batch of keys where a docstring says so
PyTree = Any

# (x_t [B, ...], t [B]) -> [B, ...], closed over parameters and conditioning.
Network = Callable[[Array, Array], Array]
