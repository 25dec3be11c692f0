"""Four steps of training, both optimizers, against the original's."""

import jax
import numpy as np
import pytest
from original_first_stage import ORIGINAL, TINY, TINY_VQ, original_state

from experiments.first_stage import model, step
from jaxgen import training
from jaxgen.convert import discriminator as convert_discriminator
from jaxgen.convert import first_stage as convert
from jaxgen.nn import posteriors

NAMES = {
  "loss": "total_loss",
  "nll": "nll_loss",
  "rec": "rec_loss",
  "codebook": "quant_loss",
  "kl": "kl_loss",
}


def four_steps(name, config, devices):
  """The state after each step, and what it measured."""
  mesh = training.make_mesh(devices=devices)
  train_step = step.make_step(config, model.make_perceptual(config), mesh)
  state = training.shard_state(mesh, original_state(name, config))
  found = []
  for images in ORIGINAL["batches"]:
    batch = training.shard_batch(mesh, {"image": images})
    state, metrics = train_step(state, batch)
    found.append(
      jax.device_get((state.params["discriminator"], state.memory, metrics))
    )
  return jax.device_get(state), found


def check_against_the_original(name, config, state, found):
  """Rounding grows, as Adam's first steps are the signs of gradients."""
  rows = [metrics for _, _, metrics in found]
  compared = set(rows[0]) - {"grad_norm", "l1", "collapsed", "used"}
  assert len(compared) == (10 if name == "vq" else 9)
  for metric in compared:
    got = [float(row[metric]) for row in rows]
    want = ORIGINAL[f"{name}_{NAMES.get(metric, metric)}"]
    assert got[0] == pytest.approx(want[0], rel=1e-4, abs=1e-6), metric
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=5e-4, err_msg=metric)
  if name == "vq":
    used = [20 * float(row["used"]) for row in rows]
    np.testing.assert_allclose(used, ORIGINAL["vq_cluster_usage"], rtol=1e-6)
  variables = {"params": found[-1][0], "batch_stats": found[-1][1]}
  tensors = convert.to_original(
    state.params["autoencoder"], model.make_autoencoder(config)
  )
  for k, x in convert_discriminator.to_original(variables).items():
    tensors[f"loss.discriminator.{k}"] = x
  for tensor in (
    "decoder.conv_out.weight",
    "loss.discriminator.main.0.weight",
    "loss.discriminator.main.3.running_mean",
    "loss.discriminator.main.6.running_var",
  ):
    want = ORIGINAL[f"{name}_{tensor}"]
    np.testing.assert_allclose(tensors[tensor], want, atol=3e-4)


@pytest.mark.slow
def test_four_steps_of_a_kl_autoencoder_are_the_originals(monkeypatch):
  """Losses, weights, logits, statistics; the discriminator starts second.

  Posteriors give their mean, there and here.
  """
  monkeypatch.setattr(posteriors, "sample", lambda key, p: p.mean)
  state, found = four_steps("kl", TINY, jax.devices()[:1])
  check_against_the_original("kl", TINY, state, found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_four_steps_of_a_vqgan_are_the_originals(count):
  """On eight devices as on one: batch statistics are of the global batch.

  So is the codebook's usage.
  """
  state, found = four_steps("vq", TINY_VQ, jax.devices()[:count])
  check_against_the_original("vq", TINY_VQ, state, found)
  # Asleep at the first step, the discriminator is not even rounded.
  start = original_state("vq", TINY_VQ).params["discriminator"]
  jax.tree.map(np.testing.assert_array_equal, found[0][0], start)
  moved = np.abs(found[1][0]["conv_0"]["kernel"] - start["conv_0"]["kernel"])
  assert 0 < moved.max() < 1.1 * TINY.lr
