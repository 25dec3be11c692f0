"""Small networks of latent diffusion, and their inputs.

Shared by the tests and by `data/make_ldm.py`, which runs the original code
with these options; the weights are `random_openai.random_state`'s.
"""

import numpy as np

SHARED = {
  "image_size": 8,
  "out_channels": 4,
  "model_channels": 64,
  "num_res_blocks": 1,
}

# name: (the original's options, height and width, channels of concat)
CASES = {
  "churches": (
    SHARED
    | {
      "in_channels": 4,
      "channel_mult": (1, 2),
      "attention_resolutions": (1,),
      "num_heads": 4,
      "use_scale_shift_norm": True,
      "resblock_updown": True,
    },
    (8, 8),
    0,
  ),
  "hybrid": (
    SHARED
    | {
      "in_channels": 9,
      "num_res_blocks": 2,
      "channel_mult": (1, 2),
      "attention_resolutions": (2,),
      "num_head_channels": 32,
      "use_spatial_transformer": True,
      "transformer_depth": 2,
      "context_dim": 24,
      "num_classes": 5,
    },
    (8, 12),
    5,
  ),
}
# name: (heads, depth, whether there is a context)
TRANSFORMERS = {"cross": (1, 2, True), "self": (2, 1, False)}

RENAMED = {
  "model_channels": "channels",
  "use_scale_shift_norm": "scale_shift_norm",
}
UNUSED = ("image_size", "in_channels", "use_spatial_transformer")


def twin(name):
  """Our network of a case."""
  from jaxgen.nn.ldm_unet import UNet

  options, _, concat_channels = CASES[name]
  ours = {RENAMED.get(k, k): v for k, v in options.items() if k not in UNUSED}
  ours = {"context_dim": None} | ours
  return UNet(concat_channels=concat_channels, **ours)


def random_inputs(name):
  """x, times, and those conditions that the case has."""
  rng = np.random.RandomState(3)
  options, size, concat_channels = CASES[name]
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  inputs = {"x": draw(2, *size, 4), "t": np.array([7.25, 984.0], np.float32)}
  if "context_dim" in options:
    inputs["context"] = draw(2, 7, options["context_dim"])
  if concat_channels:
    inputs["concat"] = draw(2, *size, concat_channels)
  if "num_classes" in options:
    inputs["y"] = np.array([3, 1])
  return inputs


def transformer_inputs():
  """A feature map, so small that epsilons show, and a context."""
  rng = np.random.RandomState(4)
  x = 0.01 * rng.standard_normal((2, 4, 6, 64))
  context = rng.standard_normal((2, 7, 24))
  return x.astype(np.float32), context.astype(np.float32)


def transformer_state(shapes):
  """Random weights of a transformer, small before the first LayerNorm."""
  from random_openai import random_state

  state = random_state(shapes)
  for leaf in ("weight", "bias"):
    state[f"proj_in.{leaf}"] *= np.float32(0.01)
  return state
