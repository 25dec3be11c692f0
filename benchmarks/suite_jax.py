"""What our side tells of itself: versions, FLOPs, the device's peak, memory."""

import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.sharding import Mesh

from jaxgen import training


def about(flops: float, dtype: str) -> dict[str, Any]:
  """What a worker reports of a case.

  Args:
    flops: of a run.
    dtype: of the computation, in which the device's peak is measured.
  """
  stats = jax.devices()[0].memory_stats() or {}
  kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
    "text": (
      f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, "
      f"{jax.devices()[0].device_kind}"
    ),
    "flops": flops,
    "peak": matrix_peak(dtype),
    "memory": stats.get("peak_bytes_in_use", 1024 * kilobytes),
  }


def flops_of(function: Callable[..., Any], *args: Any) -> float:
  """XLA's count for a function, before compilation.

  The count is made for a CPU: compiled for a GPU, convolutions and attention
  are calls of cuDNN, which XLA counts as nothing.
  """
  with jax.default_device(jax.devices("cpu")[0]):
    analysis = jax.jit(function).lower(*args).cost_analysis()
  return float((analysis or {}).get("flops", np.nan))


def training_run(
  step: training.TrainStep, state: training.TrainState, mesh: Mesh, batch: Any
) -> Callable[[], Any]:
  """A function that makes a step from where the last one ended; its loss."""
  current = training.shard_state(mesh, state)
  placed = training.shard_batch(mesh, batch)

  def train() -> Any:
    nonlocal current
    current, metrics = step(current, placed)
    return jax.block_until_ready(metrics["loss"])

  return train


def matrix_peak(dtype: str) -> float:
  """FLOPs per second of a large product of random matrices."""
  on_gpu = jax.default_backend() == "gpu"
  n, in_a_row = (8192, 10) if on_gpu else (2048, 1)
  a, b = jax.random.normal(jax.random.key(0), (2, n, n)).astype(dtype)
  product = jax.jit(jnp.matmul)
  seconds = []
  for _ in range(8):
    start = time.perf_counter()
    jax.block_until_ready([product(a, b) for _ in range(in_a_row)])
    seconds.append(time.perf_counter() - start)
  return in_a_row * 2 * n**3 / min(seconds)
