"""Compiled programs that make images, over a mesh of devices.

Every device works on its own share of the images and speaks to no other. As one
program, nothing returns to the host before the images. As three, `begin`, some
steps and `end`, the host hands the devices about a second's steps at a time and
shows how far they are; these programs serve any number of steps.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxgen.diffusion as jd
from experiments.sd1 import parts
from experiments.sd1.config import How
from jaxgen import random
from jaxgen.convert import sd1
from jaxgen.types import Array, PyTree

SPLIT = PartitionSpec(("data", "fsdp"))
SHARED = PartitionSpec()

_UPDATE = 1.0  # seconds, of the steps between two signs of progress

# (params, batch, shared, show) -> images [B, H, W, 3] in [-1, 1]. `show` is
# told how many more steps are done, now and then, if there are steps.
Draw = Callable[..., Array]


def place(mesh: Mesh, spec: PartitionSpec, tree: PyTree) -> PyTree:
  """Arrays of the host on the devices."""
  sharding = NamedSharding(mesh, spec)
  return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)


def whole(
  networks: sd1.Networks,
  how: How,
  times: np.ndarray,
  mesh: Mesh,
  args: tuple[PyTree, ...],
) -> Draw:
  """One program: text encoder, a scan over the steps, decoder.

  Args:
    networks: the model's.
    how: the sampler.
    times: its grid.
    mesh: of the devices.
    args: parameters, batch and shared arrays, as `parts` has them, placed.
  """

  def draw(params, batch, shared):
    given, x = parts.begin(networks, how, params, batch, shared, times[0])
    sampler = parts.sampler_of(networks, how, params, given)
    x = jd.sample(given["keys"], x, times, sampler)
    return parts.end(networks, how, params, x)

  start = time.perf_counter()
  program = _jit(mesh, draw, (SHARED, SPLIT, SHARED), SPLIT)
  compiled = program.lower(*args).compile()
  _say(mesh, time.perf_counter() - start)
  return lambda params, batch, shared, show: compiled(params, batch, shared)


def stepwise(
  networks: sd1.Networks,
  how: How,
  times: np.ndarray,
  mesh: Mesh,
  args: tuple[PyTree, ...],
) -> Draw:
  """Three programs: begin, some steps, end. See `whole`."""
  # A device's state is its own: it goes along a new first axis.
  stack = lambda tree: jax.tree.map(lambda x: x[None], tree)
  unstack = lambda tree: jax.tree.map(lambda x: x[0], tree)

  def begin(params, batch, shared, t):
    given, x = parts.begin(networks, how, params, batch, shared, t)
    memory = parts.sampler_of(networks, how, params, given).init(x)
    return stack(given), stack((x, memory))

  def steps(params, given, state, grid, first, last):
    given, state = unstack(given), unstack(state)
    sampler = parts.sampler_of(networks, how, params, given)

    def body(i, state):
      keys = random.fold_in(given["keys"], i)
      return sampler.step(keys, state[0], grid[i], grid[i + 1], state[1])

    return stack(jax.lax.fori_loop(first, last, body, state))

  def end(params, state):
    return parts.end(networks, how, params, unstack(state)[0])

  start, n = time.perf_counter(), len(times) - 1
  # Of one shape, for any number of steps.
  grid = np.resize(times, max(1001, n + 1))
  first = _jit(mesh, begin, (SHARED, SPLIT, SHARED, SHARED), SPLIT)
  given, state = jax.eval_shape(first, *args, times[0])
  specs = (SHARED, SPLIT, SPLIT, SHARED, SHARED, SHARED)
  some = _jit(mesh, steps, specs, SPLIT, donate_argnums=2)
  last = _jit(mesh, end, (SHARED, SPLIT), SPLIT)
  begins = first.lower(*args, times[0]).compile()
  numbers = [np.int32(i) for i in range(n + 1)]
  moves = some.lower(args[0], given, state, grid, *numbers[:2]).compile()
  ends = last.lower(args[0], state).compile()
  _say(mesh, time.perf_counter() - start)

  def draw(params, batch, shared, show):
    given, state = begins(params, batch, shared, times[0])
    i, j = 0, 1
    while i < n:
      start = time.perf_counter()
      state = moves(params, given, state, grid, numbers[i], numbers[j])
      jax.block_until_ready(state)
      seconds = time.perf_counter() - start
      show(j - i)
      i, j = j, j + max(1, int(_UPDATE * (j - i) / seconds))
      j = min(j, n)
    return ends(params, state)

  return draw


def _jit(mesh: Mesh, function: Any, ins: Any, outs: Any, **options: Any) -> Any:
  """The function of one device's share, compiled for all devices."""
  local = jax.shard_map(
    function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False
  )
  on = lambda specs: jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
  return jax.jit(local, in_shardings=on(ins), out_shardings=on(outs), **options)


def _say(mesh: Mesh, seconds: float) -> None:
  kind = mesh.devices.flat[0].platform
  print(f"compiled for {mesh.size} x {kind} in {seconds:.0f} s", flush=True)
