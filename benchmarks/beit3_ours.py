"""Our side: the same cases in jaxgen, compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import beit3_cases as cases
from benchmarks.beit3_cases import Case
from benchmarks.cases import weights
from benchmarks.suite_jax import flops_of, training_run
from experiments.beit3 import pretrain
from experiments.tokenizers import Tokenizer
from jaxgen import training
from jaxgen.convert import beit3
from jaxgen.nn.packing import pack_texts
from jaxgen.types import PyTree

HEADS = ("image_head", "text_head")


def state(case: Case) -> dict[str, np.ndarray]:
  """The weights of both sides, by the released files' names; with two heads."""
  params = jax.eval_shape(
    case.trunk.init,
    jax.random.key(0),
    jnp.zeros((1, case.size, case.size, 3)),
    jnp.zeros((1, case.length), int),
  )["params"]
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params)
  shapes = {k: x.shape for k, x in beit3.to_original(zeros, case.trunk).items()}
  if case.kind == "pretrain":
    counts = (cases.NUM_TOKENS, case.trunk.vocab_size)
    for name, count in zip(HEADS, counts, strict=True):
      shapes |= {f"{name}.weight": (count, case.trunk.width)}
      shapes |= {f"{name}.bias": (count,)}
  return weights(shapes)


def params_of(case: Case) -> PyTree:
  """Our parameters: the trunk's, in pre-training beside the heads'."""
  tensors = state(case)
  heads = {
    name: {
      "kernel": tensors.pop(f"{name}.weight").T,
      "bias": tensors.pop(f"{name}.bias"),
    }
    for name in HEADS
    if f"{name}.weight" in tensors
  }
  trunk = beit3.from_original(tensors, case.trunk, case.size)
  return {"trunk": trunk} | heads if heads else trunk


def prepare(case: Case) -> Callable[[], Any]:
  """A function that runs the case once, and returns what it computes."""
  params = params_of(case)
  if case.kind != "pretrain":
    run = jax.jit(forward(case))
    args = jax.device_put((params, *inputs(case)))
    return lambda: jax.block_until_ready(run(*args))
  mesh = training.make_mesh()
  start = first_state(params, case)
  return training_run(train_step(case, mesh), start, mesh, cases.batch_of(case))


def inputs(case: Case) -> tuple[np.ndarray, ...]:
  """What is encoded."""
  x = cases.images(case)
  return (x,) if case.kind == "images" else (x, cases.texts(case))


def forward(case: Case) -> Callable[..., Any]:
  """(params, images, texts) -> outputs of all tokens, `[B, N, C]`."""
  trunk = case.trunk.clone(dtype=jnp.dtype(case.dtype))

  def encode(params, x, tokens=None):
    padding = None if tokens is None else tokens == cases.PAD
    if padding is not None and case.room:
      padding = pack_texts(padding, case.room)
    found: Any = trunk.apply({"params": params}, x, tokens, padding)
    return jnp.concatenate([found.image, found.text], axis=1)

  return encode


def first_state(params: PyTree, case: Case) -> training.TrainState:
  """The state before the first step."""
  optimizer = pretrain.make_optimizer(cases.pretraining(case))
  return training.init_state(params, optimizer, jax.random.key(0))


def train_step(case: Case, mesh: Any) -> training.TrainStep:
  """The script's step, behind the image tokenizer."""
  config = cases.pretraining(case)
  visual = Tokenizer({}, lambda params, x: x, None, cases.NUM_TOKENS, 16, 3)
  return training.make_train_step(
    pretrain.make_loss(config, visual),
    pretrain.make_optimizer(config),
    training.constant_ema(0.0),
    mesh,
  )


def flops(case: Case) -> float:
  """Of one run, as XLA counts them."""
  params = jax.eval_shape(lambda: params_of(case))
  if case.kind != "pretrain":
    return flops_of(forward(case), params, *inputs(case))
  start = jax.eval_shape(lambda p: first_state(p, case), params)
  mesh = training.make_mesh(devices=jax.devices("cpu")[:1])
  return flops_of(train_step(case, mesh), start, cases.batch_of(case))
