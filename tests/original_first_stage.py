"""The small first stages that the original trained, and how they started.

Of tests/data/first_stage_training.npz, see PROVENANCE.md there.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from seeded_weights import seeded_state

from experiments.first_stage import model, step
from experiments.first_stage.config import Config
from jaxgen.convert import discriminator as convert_discriminator
from jaxgen.convert import first_stage as convert

ORIGINAL = np.load(Path(__file__).parent / "data/first_stage_training.npz")
TINY = Config(
  name="tiny",
  image_size=16,
  channels=32,
  channel_mult=(1, 1),
  num_res_blocks=0,
  mid_attention=False,
  perceptual_weight=0.0,
  disc_layers=2,
  disc_start=1,
  lr=3e-4,
  batch_size=8,
)
TINY_VQ = dataclasses.replace(TINY, num_codes=20, z_channels=3)


def original_tensors(name):
  """What the original started from, weights drawn by their names."""
  shapes = json.loads(str(ORIGINAL[f"{name}_shapes"]))
  floats = {k: s for k, s in shapes.items() if "tracked" not in k}
  tensors = seeded_state(floats, output_axis=0)
  at_rest = {k: np.full_like(x, "var" in k) for k, x in tensors.items()}
  return tensors | {k: x for k, x in at_rest.items() if "running" in k}


def original_state(name, config):
  tensors = original_tensors(name)
  first = convert.from_original(tensors, model.make_autoencoder(config))
  second = convert_discriminator.from_original(
    tensors, model.make_discriminator(config)
  )
  params = {"autoencoder": first, "discriminator": second["params"]}
  stats = second["batch_stats"]
  return step.as_state(config, params, stats, jax.random.key(0))
