"""Memory and time of a training step on 1 to 512 devices, as a model.

  python -m benchmarks.scaling            # the tables of docs/scaling.md
  python -m benchmarks.scaling --check    # against compiled steps, on 8 CPUs

The model counts what the parts of a step must hold, compute and send; shapes
and places are the library's own, so nothing is computed or allocated. It knows
nothing of the compiler: `--check` holds it against what XLA reports of the
sharded step of narrow networks on 8 virtual CPU devices.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from benchmarks import scaling_compiled
from jaxgen import training
from jaxgen.nn.beit import BEITS, Beit, MaskedImageModel
from jaxgen.nn.ldm_unet import LDM_NETWORKS, UNet
from jaxgen.training.parallel import compute_sharding
from jaxgen.types import PyTree

DEVICES = (1, 8, 64, 512)
# Devices with fast links between them: one host's GPUs.
GROUP = 8


class Accelerator(NamedTuple):
  """One device, by its vendor's data sheet.

  Attributes:
    flops: peak in bfloat16, per second, without sparsity.
    memory: bytes.
    near: bytes per second and direction to the devices of its group.
    far: the same to devices of other groups.
  """

  flops: float
  memory: float
  near: float
  far: float


# H100 SXM: NVLink's 900 GB/s are of both directions; one 400 Gb/s network card
# for each. TPU v5p: 1,200 GB/s of both directions, in the whole slice.
ACCELERATORS = {
  "H100": Accelerator(989e12, 80e9, 450e9, 50e9),
  "TPU v5p": Accelerator(459e12, 95 * 2**30, 600e9, 600e9),
}
# Share of the peak that a step's products reach: an assumption.
EFFICIENCY = 0.4


class Workload(NamedTuple):
  """A network in training.

  Attributes:
    loss: of parameters, key and batch.
    shapes: of the parameters.
    example: a batch of one, by its shapes.
  """

  loss: Callable[..., Any]
  shapes: PyTree
  example: PyTree


def diffusion(unet: UNet, size: int = 64, tokens: int = 77) -> Workload:
  """Latent diffusion's training of a U-Net that sees a text."""
  f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  example = {
    "x": f32(1, size, size, unet.out_channels),
    "t": f32(1),
    "context": f32(1, tokens, unet.context_dim or 0),
  }

  def loss(params, key, batch):
    eps = jax.random.normal(key, batch["x"].shape)
    out: Any = unet.apply(
      {"params": params}, batch["x"] + eps, batch["t"], batch["context"]
    )
    return jnp.mean((out - eps) ** 2)

  init = jax.eval_shape(unet.init, jax.random.key(0), *example.values())
  return Workload(loss, init["params"], example)


def masked(backbone: Beit, size: int = 224) -> Workload:
  """BEiT's pre-training, with its 8,192 visual tokens."""
  network = MaskedImageModel(backbone)
  patches = (size // backbone.patch_size) ** 2
  example = {
    "x": jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
    "mask": jax.ShapeDtypeStruct((1, patches), jnp.bool_),
    "tokens": jax.ShapeDtypeStruct((1, patches), jnp.int32),
  }

  def loss(params, key, batch):
    logits: Any = network.apply({"params": params}, batch["x"], batch["mask"])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["tokens"]
    ).mean()

  init = jax.eval_shape(
    network.init, jax.random.key(0), example["x"], example["mask"]
  )
  return Workload(loss, init["params"], example)


def batch_of(workload: Workload, size: int) -> PyTree:
  """A batch, by its shapes."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype),
    workload.example,
  )


def state_of(
  workload: Workload,
) -> tuple[training.TrainState, optax.GradientTransformation]:
  """The state's shapes under Adam with an average, and the optimizer."""
  optimizer = training.adam(1e-4)
  make = lambda params, key: training.init_state(params, optimizer, key)
  state = jax.eval_shape(make, workload.shapes, jax.random.key(0))
  return state, optimizer


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one step costs every device.

  Attributes:
    state: bytes of parameters, average, moments.
    whole: bytes of parameters gathered for the network, where `fsdp` splits
      them.
    gradients: bytes of gradients before they are reduced, whole.
    activations: bytes kept from the forward to the backward pass.
    flops: of its examples.
    gather: bytes of parameters received.
    reduce: bytes of gradients sent, summing over `fsdp` and then `data`.
    reduce_far: those of them that are summed over `data`.
  """

  state: float
  whole: float
  gradients: float
  activations: float
  flops: float
  gather: float
  reduce: float
  reduce_far: float

  def memory(self) -> float:
    """Bytes that live at once, where the forward pass ends."""
    return self.state + self.whole + self.gradients + self.activations

  def seconds(self, device: Accelerator, far: bool) -> tuple[float, float]:
    """(compute, communication); a step takes their maximum to their sum."""
    rest = device.far if far else device.near
    near = self.gather + self.reduce - self.reduce_far
    communication = near / device.near + self.reduce_far / rest
    return self.flops / (device.flops * EFFICIENCY), communication


def per_example(workload: Workload) -> tuple[float, float]:
  """(FLOPs of forward and backward pass, bytes of activations) of an example.

  FLOPs as XLA counts them before it compiles, activations as the arrays that
  JAX keeps for the backward pass; both of the second example of a batch, which
  leaves out what does not grow with it. Without rematerialisation.
  """

  def at(size: int) -> tuple[float, float]:
    batch = batch_of(workload, size)
    key = jax.random.key(0)
    lowered = jax.jit(jax.value_and_grad(workload.loss)).lower(
      workload.shapes, key, batch
    )
    analysis: Any = lowered.cost_analysis()

    def residuals(params, batch):
      return jax.vjp(lambda p: workload.loss(p, key, batch), params)[1]

    return analysis["flops"], _bytes(
      jax.eval_shape(residuals, workload.shapes, batch)
    )

  (flops, kept), (flops_2, kept_2) = at(1), at(2)
  return flops_2 - flops, kept_2 - kept


def cost(
  workload: Workload,
  data: int,
  fsdp: int,
  batch: int,
  example: tuple[float, float],
) -> Cost:
  """What a step costs on a mesh of `data x fsdp`.

  Args:
    workload: the network.
    data: copies of the parameters.
    fsdp: devices that share one.
    batch: examples of each device.
    example: from `per_example`.
  """
  mesh = AbstractMesh((data, fsdp, 1), ("data", "fsdp", "tensor"))
  state, _ = state_of(workload)
  held = _bytes_on(mesh, state.params, training.state_sharding)
  whole = _bytes_on(mesh, state.params, compute_sharding)
  flops, kept = example
  split = whole - held  # what `fsdp` adds when it gathers
  # Rings (Patarasuk & Yuan 2009): all of n bytes but a device's own part are
  # sent, once to gather or to scatter sums and twice to do both.
  across = 2 * held * (data - 1) / data
  return Cost(
    state=_bytes_on(mesh, state, training.state_sharding),
    whole=whole if fsdp > 1 else 0.0,
    gradients=whole,
    activations=kept * batch,
    flops=flops * batch,
    gather=split,
    reduce=split + across,
    reduce_far=across,
  )


def _bytes(tree: PyTree) -> float:
  return float(sum(_size(x, x.shape) for x in jax.tree.leaves(tree)))


def _bytes_on(mesh: AbstractMesh, tree: PyTree, rule: Callable) -> float:
  """Bytes on one device of a mesh."""
  places = jax.tree.leaves(rule(mesh, tree))
  return float(
    sum(
      _size(x, place.shard_shape(x.shape))
      for x, place in zip(jax.tree.leaves(tree), places, strict=True)
    )
  )


def _size(x: Any, shape: tuple[int, ...]) -> int:
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    return 8 * math.prod(shape)
  return x.dtype.itemsize * math.prod(shape)


# Examples of each device: what fits an H100 without rematerialisation.
NETWORKS = {
  "SD1's U-Net, 512 x 512": (
    lambda: diffusion(LDM_NETWORKS["sd1"].clone(dtype=jnp.bfloat16)),
    4,
  ),
  "BEiT-L, 224 x 224": (
    lambda: masked(BEITS["large"].clone(dtype=jnp.bfloat16)),
    32,
  ),
}


def table(name: str) -> str:
  """One network on the numbers of devices, as Markdown."""
  make, batch = NETWORKS[name]
  workload = make()
  example = per_example(workload)
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(workload.shapes))
  lines = [
    f"{name}: {count / 1e6:.1f}M parameters, {example[0] / 1e12:.3g} TFLOPs "
    f"and {example[1] / 1e9:.3g} GB of activations an example, {batch} "
    "examples a device.",
    "",
    "| devices | fsdp | state | gathered | gradients | activations | sum | "
    "sent | H100 | TPU v5p |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ]
  for devices in DEVICES:
    for fsdp in (1, GROUP) if devices >= GROUP else (1,):
      c = cost(workload, devices // fsdp, fsdp, batch, example)
      parts = (c.state, c.whole, c.gradients, c.activations, c.memory())
      cells = [str(devices), str(fsdp)] + [f"{x / 1e9:.1f}" for x in parts]
      cells.append(f"{(c.gather + c.reduce) / 1e9:.1f}")
      for device in ACCELERATORS.values():
        work, sending = c.seconds(device, far=devices > GROUP)
        cells.append(f"{work * 1e3:.0f} + {sending * 1e3:.0f} ms")
      lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def check(workload: Workload, fsdp: int, batch: int) -> dict[str, Any]:
  """{quantity: (model, compiled)} of a step on all devices there are.

  "state" and "gather" are exact where the model is right; "temporary" is what
  the compiled step needs beside its arguments, against gathered parameters,
  gradients and activations.
  """
  mesh = training.make_mesh(fsdp=fsdp)
  state, optimizer = state_of(workload)
  step = training.make_train_step(
    workload.loss, optimizer, training.constant_ema(0.9999), mesh
  )
  split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  examples = batch_of(workload, batch * mesh.size)
  found = scaling_compiled.compiled(
    step,
    jax.tree.map(place, state, training.state_sharding(mesh, state)),
    jax.tree.map(lambda x: place(x, split), examples),
  )
  model = cost(workload, mesh.size // fsdp, fsdp, batch, per_example(workload))
  arguments = model.state + _bytes(examples) / mesh.size
  temporary = model.whole + model.gradients + model.activations
  return {
    "state": (arguments, found.arguments),
    "temporary": (temporary, found.temporary),
    "flops": (model.flops, found.flops),
    "gather": (model.gather, found.gather),
    "reduce": (model.reduce, found.reduce),
  }


# Narrow enough to compile in a minute on a CPU.
NARROW = {
  "BEiT of width 256": lambda: masked(Beit(16, 256, 4, 4, 1024), 128),
  "U-Net of 64 channels": lambda: diffusion(
    UNet(64, (1, 2), 1, attention_resolutions=(1, 2), context_dim=64), 16
  ),
}


def main() -> None:
  """Prints the tables, or the check."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--check", action="store_true")
  args = parser.parse_args()
  if not args.check:
    print("\n".join(table(name) for name in NETWORKS))
    return
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 8)
  print("| network | fsdp | quantity | model | compiled | ratio |")
  print("|---|---|---|---|---|---|")
  for name, make in NARROW.items():
    for fsdp in (1, 8):
      for what, (model, found) in check(make(), fsdp, 4).items():
        ratio = f"{found / model:.2f}" if model else "-"
        cells = (name, str(fsdp), what, f"{model:.4g}", f"{found:.4g}", ratio)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  main()
