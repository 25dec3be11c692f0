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
  random_inputs,
  random_state,
)

from jaxgen.convert import openai
from jaxgen.nn.openai_classifier import Classifier
from jaxgen.nn.openai_unet import UNet

STORED = np.load(Path(__file__).parents[1] / "data/openai_unet.npz")
RENAMED = {
  "model_channels": "channels",
  "use_scale_shift_norm": "scale_shift_norm",
  "use_new_attention_order": "new_attention_order",
}
# What the original leaves out of an options' dictionary.
DEFAULTS = {"num_heads": 1, "scale_shift_norm": False, "resblock_updown": False}


def twin(kind, options, height):
  """Our network of the original's options."""
  ours = DEFAULTS | {RENAMED.get(k, k): v for k, v in options.items()}
  del ours["in_channels"]
  ours.pop("image_size", None)
  ours["attention_resolutions"] = tuple(
    height // rate for rate in options["attention_resolutions"]
  )
  if kind == "EncoderUNetModel":
    ours["num_classes"] = ours.pop("out_channels")
    return Classifier(**{"num_head_channels": None} | ours)
  return UNet(super_resolution=kind == "SuperResModel", **ours)


def random_params(network, *args):
  """The weights that the original had, its names being ours exported."""
  template = jax.eval_shape(network.init, jax.random.key(0), *args)["params"]
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), template)
  names = openai.to_original(zeros, network)
  state = random_state({name: x.shape for name, x in names.items()})
  return openai.from_original(state, network)


def relative_error(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_equal_the_original(name):
  _, kind, options, size = CASES[name]
  unet = twin(kind, options, size[0])
  given = random_inputs(size)
  args = [given["x"], given["t"]]
  args.append(given["y"] if unet.num_classes else None)
  args.append(given["low_res"] if unet.super_resolution else None)
  params = random_params(unet, *args)

  def loss(params):
    out = unet.apply({"params": params}, *args)
    return jnp.mean((out[..., :3] - given["target"]) ** 2), out

  grads, out = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert relative_error(out, STORED[name]) <= 2e-5

  grads = openai.to_original(grads, unet)
  lines = random_state({k: g.shape for k, g in grads.items()}, seed=2)
  for k, (size, product) in zip(
    sorted(grads), STORED[f"{name}_gradients"], strict=True
  ):
    assert abs(np.linalg.norm(grads[k]) - size) <= 1e-4 * size, k
    scale = 1e-4 * size * np.linalg.norm(lines[k])
    assert abs(np.vdot(grads[k], lines[k]) - product) <= scale, k


@pytest.mark.parametrize("name", CLASSIFIER_CASES)
def test_classifier_and_its_guidance_equal_the_original(name):
  classifier = twin("EncoderUNetModel", CLASSIFIER_CASES[name], 16)
  given = random_inputs((16, 16))
  params = random_params(classifier, given["x"], given["t"])

  def log_prob(x):
    logits = classifier.apply({"params": params}, x, given["t"])
    return jax.nn.log_softmax(logits)[np.arange(2), given["y"]].sum(), logits

  gradient, logits = jax.jit(jax.grad(log_prob, has_aux=True))(given["x"])
  assert relative_error(logits, STORED[f"classifier_{name}"]) <= 2e-5
  stored = STORED[f"classifier_{name}_gradient"]
  assert relative_error(gradient, stored) <= 2e-5
