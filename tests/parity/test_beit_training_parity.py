"""Four steps of BEiT's pre-training and fine-tuning against the original's.

Loss, clipping, weight decay, its exceptions, rates of layers and schedule.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from seeded_weights import seeded_state

from experiments.beit import finetune, model, pretrain
from experiments.beit.config import CONFIGS, PLUS
from experiments.beit.finetune_config import CONFIGS as FINETUNES
from experiments.tokenizers import Tokenizer
from jaxgen import training
from jaxgen.convert import beit

STORED = np.load(Path(__file__).parents[1] / "data/beit_training.npz")
TINY = {
  "image_size": 16,
  "image_channels": 3,
  "patch_size": 4,
  "width": 16,
  "num_layers": 3,
  "num_heads": 4,
  "mlp_width": 32,
  "drop_path": 0.0,
  "lr": 1e-2,
  "min_lr": 1e-4,
  "warmup": 2,
  "decay_steps": 8,
  "steps": 8,
  "weight_decay": 0.5,
}


def start(kind):
  """The original's initial weights."""
  shapes = [tuple(s[s > 0].tolist()) for s in STORED[f"{kind}_shapes"]]
  names = STORED[f"{kind}_names"].tolist()
  return seeded_state(dict(zip(names, shapes, strict=True)), 0)


def run(kind, network, optimizer, make_step, batches):
  """What four steps measure, and the tensors after them."""
  params = beit.from_original(start(kind), network, 16)
  params = jax.tree.map(jnp.array, params)
  mesh = training.make_mesh(devices=jax.devices()[:1])
  state = training.init_state(params, optimizer, jax.random.key(0))
  state = training.shard_state(mesh, state)
  step = make_step(mesh)
  rows = []
  for batch in batches:
    state, metrics = step(state, training.shard_batch(mesh, batch))
    names = ("loss", "grad_norm", "accuracy")
    rows.append([float(metrics[name]) for name in names])
  return rows, beit.to_original(jax.device_get(state.params))


def check(kind, rows, tensors):
  """Adam's first steps are signs of gradients: rounding may turn a few."""
  np.testing.assert_allclose(rows, STORED[f"{kind}_steps"], rtol=2e-4)
  before = start(kind)
  assert tensors.keys() == before.keys()
  for name, found in tensors.items():
    want = STORED[f"{kind}/{name}"]
    moved = np.abs(want - before[name]).max()
    assert moved > 0, name
    np.testing.assert_allclose(
      found, want, rtol=1e-4, atol=1e-2 * moved, err_msg=name
    )


def test_pre_training():
  """The tokenizer's view holds the tokens themselves."""
  given = Tokenizer({}, lambda params, second: second, None, 16, 4, 3)
  most = int(STORED["masks"].sum(-1).max())
  config = dataclasses.replace(
    CONFIGS["mnist5k"], **TINY | PLUS, num_masked=most, clip_norm=1.0
  )
  batches = [
    {"image": image, "second": tokens, "mask": mask}
    for image, tokens, mask in zip(
      STORED["images"], STORED["tokens"], STORED["masks"], strict=True
    )
  ]
  rows, tensors = run(
    "pretrain",
    model.make_mim(config, 16),
    pretrain.make_optimizer(config),
    lambda mesh: pretrain.make_step(config, given, mesh),
    batches,
  )
  check("pretrain", rows, tensors)


def test_fine_tuning():
  config = dataclasses.replace(
    FINETUNES["mnist5k"],
    **TINY | PLUS | {"relative_positions": "per_block"},
    num_classes=5,
    layer_decay=0.65,
    smoothing=0.1,
  )
  batches = [
    {"image": image, "label": label}
    for image, label in zip(STORED["images"], STORED["labels"], strict=True)
  ]
  rows, tensors = run(
    "finetune",
    model.make_classifier(config),
    finetune.make_optimizer(config),
    lambda mesh: finetune.make_step(config, mesh),
    batches,
  )
  check("finetune", rows, tensors)
