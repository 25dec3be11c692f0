"""Devices as a named mesh, and where arrays live on it.

Three axes: `data` splits the batch; `fsdp` splits the batch too, and the large
parameters with it; `tensor` splits the work on each example, by the rules of
`jaxgen.training.tensor`. On one device all have size 1 and the same code runs.
"""

import glob
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgen.training.tensor import tensor_axis
from jaxgen.types import Array, PyTree

# Arrays with fewer elements are copied to every device: splitting them would
# save nothing and cost a gather each.
MIN_SHARDED_SIZE = 2**16


def initialize_distributed(environ: Mapping[str, str] = os.environ) -> bool:
  """Joins the other hosts of this job, if it has any; call it first.

  `jax.distributed.initialize` where a cluster is seen: SLURM (several tasks),
  Open MPI, a TPU pod, a Kubernetes indexed job (needs `jax[k8s]`), or
  JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID set by
  hand. Elsewhere, and when called again, it does nothing.

  Args:
    environ: the environment variables to look at.

  Returns:
    Whether this process belongs to a distributed job.

  Raises:
    RuntimeError: JAX has touched a device already.
  """
  if jax.distributed.is_initialized():
    return True
  if not _on_cluster(environ):
    return False
  by_hand = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  count, index = (
    int(environ[name]) if name in environ else None for name in by_hand
  )
  jax.distributed.initialize(num_processes=count, process_id=index)
  return True


def _on_cluster(environ: Mapping[str, str]) -> bool:
  """Whether the environment is that of one process among several."""
  slurm_tasks = int(environ.get("SLURM_NTASKS", "1"))
  tpu_chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")
  signs = [
    "JAX_COORDINATOR_ADDRESS" in environ,
    "SLURM_STEP_NODELIST" in environ and slurm_tasks > 1,
    int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1,
    {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environ),
    "," in environ.get("TPU_WORKER_HOSTNAMES", ""),
    importlib.util.find_spec("libtpu") is not None
    and tpu_chips
    and "TPU_SKIP_MDS_QUERY" not in environ,  # a notebook's TPU
  ]
  return any(signs)


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  devices: Sequence[jax.Device] | None = None,
  tensor: int = 1,
) -> Mesh:
  """The `(data, fsdp, tensor)` mesh over all devices of all hosts.

  Args:
    data: number of groups that hold one copy of the parameters each; -1 for
      as many as there are devices for.
    fsdp: number of groups that share one copy, each with its own examples.
    devices: other devices than all.
    tensor: number of devices in such a group; they share the work on the same
      examples, and belong to one host.

  Raises:
    ValueError: `data x fsdp x tensor` is not the number of devices, or the
      devices of a group belong to several hosts.
  """
  count = len(jax.devices() if devices is None else devices)
  if data == -1 and fsdp > 0 and tensor > 0:
    data = count // (fsdp * tensor)
  if min(data, fsdp, tensor) < 1 or data * fsdp * tensor != count:
    raise ValueError(
      f"a mesh of data={data} x fsdp={fsdp} x tensor={tensor} does not use all "
      f"{count} devices"
    )
  # Auto: shardings are inferred by the compiler from those of the inputs.
  mesh = jax.make_mesh(
    (data, fsdp, tensor),
    ("data", "fsdp", "tensor"),
    (AxisType.Auto,) * 3,
    devices=devices,
  )
  for group in mesh.devices.reshape(-1, tensor):
    hosts = {device.process_index for device in group}
    if len(hosts) > 1:
      raise ValueError(
        f"the tensor={tensor} devices that work on the same examples must "
        f"belong to one host, got hosts {sorted(hosts)}"
      )
  return mesh


def shard_batch(mesh: Mesh, batch: PyTree) -> PyTree:
  """Places a batch on the mesh, split along axis 0 over `data` and `fsdp`.

  Args:
    mesh: from `make_mesh`.
    batch: a pytree of arrays `[b, ...]`: this host's part of the batch, the
      whole of it when there is one host.

  Returns:
    Global arrays `[b x hosts, ...]`.

  Raises:
    ValueError: b is not a multiple of the number of local devices, or of
      groups of them where `tensor` is not 1.
  """
  sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  count = len(mesh.local_devices) // mesh.shape["tensor"]

  def place(path, x):
    x = np.asarray(x)
    if x.ndim == 0 or x.shape[0] % count:
      name = jax.tree_util.keystr(path, simple=True, separator="/") or "batch"
      raise ValueError(
        f"axis 0 of {name}, shape {list(x.shape)}, cannot be split over "
        f"{count} devices; make the batch a multiple of {count}"
      )
    return jax.make_array_from_process_local_data(sharding, x)

  return jax.tree.map_with_path(place, batch)


def split_batch(mesh: Mesh, batch: PyTree) -> PyTree:
  """Places a batch that every host has whole, split as `shard_batch` does.

  Args:
    mesh: from `make_mesh`.
    batch: a pytree of arrays `[B, ...]`, the same on every host; B is a
      multiple of `data x fsdp`. Random keys may be among them.
  """
  split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  return jax.tree.map(lambda x: _place(x, split), batch)


def gather(x: Array) -> np.ndarray:
  """The whole of a global array on every host, which all must ask for."""
  if x.is_fully_addressable:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def state_sharding(mesh: Mesh, state: PyTree) -> PyTree:
  """Where each array of a state (or of parameters) lives.

  Copied along `data`. Along `tensor`, an array is split on the axis that
  `tensor_axis` names, if it divides evenly. Along `fsdp`, an array of at least
  `MIN_SHARDED_SIZE` elements is split on its largest axis that is left and
  divides evenly (the last of equals); all others are copied. The rule sees
  shapes and the ends of paths alone, so moments and averages lie beside their
  parameters.

  A model too large for one device is made in place:

      places = state_sharding(mesh, jax.eval_shape(make_state, key))
      state = jax.jit(make_state, out_shardings=places)(key)

  Args:
    mesh: from `make_mesh`.
    state: a pytree of arrays or of their shapes.

  Returns:
    A pytree of `NamedSharding`.
  """
  fsdp = mesh.shape["fsdp"]

  def rule(place: NamedSharding, x: Array) -> NamedSharding:
    spec = [*place.spec] + [None] * (len(x.shape) - len(place.spec))
    axes = [
      i
      for i, size in enumerate(x.shape)
      if spec[i] is None and size % fsdp == 0
    ]
    small = math.prod(x.shape) < MIN_SHARDED_SIZE
    if fsdp == 1 or small or not axes:
      return place
    spec[max(axes, key=lambda i: (x.shape[i], i))] = "fsdp"
    return _named(mesh, spec)

  return jax.tree.map(rule, compute_sharding(mesh, state), state)


def compute_sharding(mesh: Mesh, params: PyTree) -> PyTree:
  """Where parameters are while the network runs: split by `tensor` alone."""
  tensor = mesh.shape["tensor"]

  def rule(path, x) -> NamedSharding:
    axis = None
    if tensor > 1:
      axis = tensor_axis(jax.tree_util.keystr(path, simple=True, separator="/"))
    if axis is None or axis >= len(x.shape) or x.shape[axis] % tensor:
      return NamedSharding(mesh, PartitionSpec())
    return _named(mesh, [*[None] * axis, "tensor"])

  return jax.tree.map_with_path(rule, params)


def _named(mesh: Mesh, spec: list[str | None]) -> NamedSharding:
  while spec and spec[-1] is None:  # as jit writes the places of its outputs
    spec.pop()
  return NamedSharding(mesh, PartitionSpec(*spec))


def shard_state(mesh: Mesh, state: PyTree) -> PyTree:
  """A copy of a state (or of parameters) on the mesh, by `state_sharding`.

  A copy, because the training step takes over the buffers it is given, and
  the caller's own arrays should outlive it. It passes through host memory.

  Args:
    mesh: from `make_mesh`.
    state: a pytree of arrays, the same on every host.
  """
  return jax.tree.map(_place, state, state_sharding(mesh, state))


def _place(x: Array, sharding: NamedSharding) -> Array:
  # jax.device_put takes neither keys nor committed arrays to other hosts.
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    words = _place(jax.random.key_data(x), sharding)
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
  host = np.array(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda i: host[i])
