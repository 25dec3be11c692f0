"""Compiled programs that make images, over a mesh of devices.

Every device works on its own share of the images and speaks to no other. As one
program, nothing returns to the host before the images. As three, `begin`, a
step and `end`, the host hands the devices one step after another and shows how
far they are; the program of a step serves any number of steps.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
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

# (params, batch, shared, show) -> images [B, H, W, 3] in [-1, 1]. `show` is
# called after every step, if there are steps.
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
  """Three programs: begin, a step, end. See `whole`."""
  # A device's state is its own: it goes along a new first axis.
  stack = lambda tree: jax.tree.map(lambda x: x[None], tree)
  unstack = lambda tree: jax.tree.map(lambda x: x[0], tree)

  def begin(params, batch, shared, t):
    given, x = parts.begin(networks, how, params, batch, shared, t)
    memory = parts.sampler_of(networks, how, params, given).init(x)
    return stack(given), stack((x, memory))

  def step(params, given, state, i, t, s):
    given, (x, memory) = unstack(given), unstack(state)
    sampler = parts.sampler_of(networks, how, params, given)
    keys = random.fold_in(given["keys"], i)
    x, memory = sampler.step(keys, x, t, s, memory)
    return stack((x, memory)), x.reshape(-1)[:1]

  def end(params, state):
    return parts.end(networks, how, params, unstack(state)[0])

  start = time.perf_counter()
  instants = place(mesh, SHARED, list(_instants(times)))
  first = _jit(mesh, begin, (SHARED, SPLIT, SHARED, SHARED), SPLIT)
  given, state = jax.eval_shape(first, *args, instants[0][1])
  specs = (SHARED, SPLIT, SPLIT, SHARED, SHARED, SHARED)
  one = _jit(mesh, step, specs, (SPLIT, SPLIT), donate_argnums=2)
  last = _jit(mesh, end, (SHARED, SPLIT), SPLIT)
  begins = first.lower(*args, instants[0][1]).compile()
  steps = one.lower(args[0], given, state, *instants[0]).compile()
  ends = last.lower(args[0], state).compile()
  _say(mesh, time.perf_counter() - start)

  def draw(params, batch, shared, show):
    given, state = begins(params, batch, shared, instants[0][1])
    done: deque[Array] = deque()
    for instant in instants:
      state, number = steps(params, given, state, *instant)
      done.append(number)
      if len(done) > 1:  # the next step is under way while one is waited for
        done.popleft().block_until_ready()
        show()
    images = ends(params, state)
    done.popleft().block_until_ready()
    show()
    return images

  return draw


def _instants(times: np.ndarray) -> Iterator[tuple[Any, Any, Any]]:
  for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
    yield np.int32(i), t, s


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
