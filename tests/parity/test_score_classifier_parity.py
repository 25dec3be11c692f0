"""The noise-conditional classifier against the original code's outputs.

The arrays are described in tests/data/PROVENANCE.md.
"""

import json
from pathlib import Path

import flax.serialization
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from seeded_weights import seeded_state

from jaxgen.convert import score_classifier
from jaxgen.nn.score_classifier import WideResNet

ARRAYS = {
  name.removeprefix("classifier/"): array
  for name, array in np.load(
    Path(__file__).parents[1] / "data" / "score_sde_flax.npz"
  ).items()
  if name.startswith("classifier/")
}
NETWORK = WideResNet(2, 2)


def original_params():
  shapes = json.loads(str(ARRAYS["shapes"]))
  return unflatten_dict(seeded_state(shapes, output_axis=-1), sep="/")


def test_logits_and_gradient_equal_the_original():
  params = score_classifier.from_flax(original_params(), NETWORK)
  x, sigma, labels = (ARRAYS[k] for k in ("x", "sigma", "labels"))

  def log_prob(x):
    logits = NETWORK.apply({"params": params}, x, sigma)
    return jax.nn.log_softmax(logits)[np.arange(2), labels].sum(), logits

  gradient, logits = jax.jit(jax.grad(log_prob, has_aux=True))(x)
  np.testing.assert_allclose(logits, ARRAYS["output"], rtol=2e-5, atol=2e-5)
  error = np.linalg.norm(gradient - ARRAYS["gradient"])
  assert error <= 5e-5 * np.linalg.norm(ARRAYS["gradient"])


@pytest.mark.slow
def test_starts_as_the_original_does():
  init = jax.jit(NETWORK.init)
  params = init(jax.random.key(0, impl="rbg"), ARRAYS["x"], ARRAYS["sigma"])
  names = json.loads(str(ARRAYS["shapes"]))
  theirs = dict(zip(names, ARRAYS["initial_std"], strict=True))
  flat = flatten_dict(params["params"])
  for path, leaf in flat.items():
    wanted = theirs.pop(score_classifier.flax_name(path))
    if leaf.size > 3000:
      assert leaf.std() == pytest.approx(wanted, rel=0.05), path
    elif leaf.ndim == 1 and path[0] != "fourier":
      assert leaf.std() == wanted == 0, path
  assert not theirs


def test_loads_the_published_kind_of_file(tmp_path):
  path = tmp_path / "checkpoint_0"
  path.write_bytes(flax.serialization.to_bytes(original_params()))
  params = score_classifier.load(path, NETWORK)
  again = score_classifier.from_flax(original_params(), NETWORK)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  with pytest.raises(ValueError, match=r"missing: .*WideResnetBlock_2"):
    score_classifier.load(path, WideResNet(3, 2))
