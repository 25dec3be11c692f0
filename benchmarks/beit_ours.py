"""Our side: the same cases in jaxgen, compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import beit_cases as cases
from benchmarks.beit_cases import Case
from benchmarks.cases import weights
from benchmarks.suite_jax import flops_of, training_run
from jaxgen import training
from jaxgen.convert import beit
from jaxgen.masked import masked_image_loss, masked_places
from jaxgen.nn.beit import Classifier, MaskedImageModel
from jaxgen.nn.vit import chosen
from jaxgen.training.layer_decay import layer_decay_adamw
from jaxgen.types import PyTree


def network_of(case: Case) -> MaskedImageModel | Classifier:
  """The network: shared biases in pre-training, else one table per block."""
  dtype = jnp.dtype(case.dtype)
  if case.kind == "pretrain":
    return MaskedImageModel(case.backbone.clone(dtype=dtype), cases.NUM_TOKENS)
  backbone = case.backbone.clone(
    relative_positions="per_block", mask_token=False, dtype=dtype
  )
  return Classifier(backbone, cases.NUM_CLASSES)


def shapes(case: Case) -> PyTree:
  """Of the parameters."""
  x = jnp.zeros((1, case.size, case.size, 3))
  init = network_of(case).init
  return jax.eval_shape(init, jax.random.key(0), x)["params"]


def state(case: Case) -> dict[str, np.ndarray]:
  """The weights of both sides, by the released files' names."""
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes(case))
  empty = beit.to_original(zeros)
  return weights({name: x.shape for name, x in empty.items()})


def prepare(case: Case) -> Callable[[], Any]:
  """A function that runs the case once, and returns what it computes."""
  params = beit.from_original(state(case), network_of(case), case.size)
  if case.kind == "forward":
    x = jax.device_put(cases.images(case))
    run = jax.jit(forward(case))
    return lambda: jax.block_until_ready(run(params, x))
  mesh = training.make_mesh()
  start = first_state(params, case)
  return training_run(train_step(case, mesh), start, mesh, batch_of(case))


def forward(case: Case) -> Callable[..., Any]:
  """(params, images) -> logits."""
  network: Any = network_of(case)
  return lambda params, x: network.apply({"params": params}, x)


def batch_of(case: Case) -> dict[str, np.ndarray]:
  """What a pre-training step is given."""
  return {
    "image": cases.images(case),
    "mask": cases.masks(case),
    "tokens": cases.tokens(case),
  }


def make_optimizer(case: Case) -> Any:
  """BEiT's AdamW with clipped gradients."""
  return layer_decay_adamw(
    cases.LR,
    case.backbone.num_layers,
    weight_decay=cases.WEIGHT_DECAY,
    clip_norm=cases.CLIP_NORM,
  )


def first_state(params: PyTree, case: Case) -> training.TrainState:
  """The state before the first step."""
  return training.init_state(params, make_optimizer(case), jax.random.key(0))


def train_step(case: Case, mesh: Any) -> training.TrainStep:
  """The library's step, its average of parameters included."""
  network: Any = network_of(case)

  def loss_fn(params, key, batch):
    image, mask = batch["image"], batch["mask"]
    places, masked = masked_places(mask, cases.num_masked(case))
    logits = network.apply({"params": params}, image, mask, True, places)
    tokens = chosen(batch["tokens"], places)
    return masked_image_loss(logits, tokens, masked)[0]

  return training.make_train_step(
    loss_fn, make_optimizer(case), training.constant_ema(0.999), mesh
  )


def flops(case: Case) -> float:
  """Of one run, as XLA counts them."""
  if case.kind == "forward":
    return flops_of(forward(case), shapes(case), cases.images(case))
  start = jax.eval_shape(lambda p: first_state(p, case), shapes(case))
  mesh = training.make_mesh(devices=jax.devices("cpu")[:1])
  return flops_of(train_step(case, mesh), start, batch_of(case))
