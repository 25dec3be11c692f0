"""Improved DDPM's and ADM's networks against OpenAI's code.

Its outputs are stored (tests/data/PROVENANCE.md): it is no package. The weights
are random and drawn again here.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import (
  CASES,
  CLASSIFIER_CASES,
  GRADIENT_CASES,
  quick_jit,
  random_inputs,
  random_state,
  twin,
)

from jaxgen.convert import openai

STORED = np.load(Path(__file__).parents[1] / "data/openai_unet.npz")


def random_params(network, *args):
  """The weights that the original had, its names being ours exported."""
  template = jax.eval_shape(network.init, jax.random.key(0), *args)["params"]
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), template)
  names = openai.to_original(zeros, network)
  state = random_state({name: x.shape for name, x in names.items()})
  return openai.from_original(state, network)


def relative_error(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def setup(name):
  """The network of a case, its parameters, its arguments and a target."""
  unet, (*_, size) = twin(name), CASES[name]
  given = random_inputs(size)
  args = [given["x"], given["t"]]
  args.append(given["y"] if unet.num_classes else None)
  args.append(given["low_res"] if unet.super_resolution else None)
  return unet, random_params(unet, *args), args, given["target"]


@pytest.mark.parametrize("name", sorted({*CASES} - {*GRADIENT_CASES}))
def test_output_equals_the_original(name):
  unet, params, args, _ = setup(name)
  out = quick_jit(unet.apply)({"params": params}, *args)
  assert relative_error(out, STORED[name]) <= 2e-5


@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_output_and_gradients_equal_the_original(name):
  unet, params, args, target = setup(name)

  def loss(params):
    out = unet.apply({"params": params}, *args)
    return jnp.mean((out[..., :3] - target) ** 2), out

  grads, out = quick_jit(jax.grad(loss, has_aux=True))(params)
  assert relative_error(out, STORED[name]) <= 2e-5
  grads = openai.to_original(grads, unet)
  lines = random_state({k: g.shape for k, g in grads.items()}, seed=2)
  for k, (norm, product) in zip(
    sorted(grads), STORED[f"{name}_gradients"], strict=True
  ):
    assert abs(np.linalg.norm(grads[k]) - norm) <= 1e-4 * norm, k
    error = abs(np.vdot(grads[k], lines[k]) - product)
    assert error <= 1e-4 * norm * np.linalg.norm(lines[k]), k


@pytest.mark.parametrize("name", CLASSIFIER_CASES)
def test_classifier_and_its_guidance_equal_the_original(name):
  classifier = twin(name)
  given = random_inputs((16, 16))
  params = random_params(classifier, given["x"], given["t"])

  def log_prob(x):
    logits = classifier.apply({"params": params}, x, given["t"])
    return jax.nn.log_softmax(logits)[np.arange(2), given["y"]].sum(), logits

  gradient, logits = quick_jit(jax.grad(log_prob, has_aux=True))(given["x"])
  assert relative_error(logits, STORED[f"classifier_{name}"]) <= 2e-5
  stored = STORED[f"classifier_{name}_gradient"]
  assert relative_error(gradient, stored) <= 2e-5
