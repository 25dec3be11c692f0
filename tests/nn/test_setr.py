"""SETR-PUP on BEiT; tests/parity has the head by torch's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.nn.beit import BEITS, Beit
from jaxgen.nn.setr import ProgressiveSegmenter
from jaxgen.training.segmentation_losses import (
  pixel_cross_entropy,
  segmentation_loss,
)


def test_sizes_of_the_papers_network():
  """BEiT-B at 512: a main head of four steps, auxiliary ones of two."""
  backbone = BEITS["base"].clone(mask_token=False)
  x = jnp.zeros((1, 512, 512, 3))
  (logits, others), v = jax.eval_shape(
    ProgressiveSegmenter(backbone).init_with_output, jax.random.key(0), x
  )
  assert [o.shape for o in (logits, *others)] == [(1, 512, 512, 150)] * 4
  # By hand: LN, 3 x 3 convolutions with BN, a classifier.
  layer = lambda c: 9 * c * 256 + 2 * 256
  first, last = 2 * 768 + layer(768), 256 * 150 + 150
  params = v["params"]
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(params["decode_head"]) == first + 3 * layer(256) + last
  names = {name for name in params if name.startswith("auxiliary")}
  assert names == {f"auxiliary_head_{i}" for i in range(3)}
  for name in names:
    assert count(params[name]) == first + layer(256) + last


def test_heads_see_their_own_level():
  """Patches of 4 pixels; the gradient of a head's logits ends at its block."""
  backbone = Beit(4, 8, 2, 2, 16, mask_token=False)
  network = ProgressiveSegmenter(backbone, 3, (0, 1))
  x = np.random.default_rng(0).standard_normal((1, 8, 12, 3), np.float32)
  variables = jax.jit(network.init)(jax.random.key(0), x)

  def of(params, i):
    main, others = network.apply(variables | {"params": params}, x)
    assert main.shape == others[0].shape == (1, 8, 12, 3)
    return jnp.square((*others, main)[i]).sum()

  @jax.jit
  def reached(params):
    """Whether head i has a gradient in block j."""
    found = [jax.grad(of)(params, i)["backbone"] for i in range(2)]
    return [
      [optax.tree.norm(g[f"block_{j}"]) > 0 for j in range(2)] for g in found
    ]

  wanted = [[True, False], [True, True]]
  np.testing.assert_array_equal(reached(variables["params"]), wanted)


def test_loss_of_several_auxiliary_heads():
  rng = np.random.default_rng(0)
  main, *others = rng.standard_normal((4, 2, 6, 6, 5), np.float32)
  labels = rng.integers(0, 5, (2, 6, 6))
  loss, metrics = segmentation_loss(main, others, labels, 0.4)
  parts = [pixel_cross_entropy(x, labels) for x in (main, *others)]
  losses, accuracies = np.array(parts).T
  np.testing.assert_allclose(loss, losses @ [1, 0.4, 0.4, 0.4], rtol=1e-6)
  np.testing.assert_allclose(metrics["auxiliary"], losses[1:].sum(), rtol=1e-6)
  np.testing.assert_allclose(
    metrics["auxiliary_accuracy"], accuracies[1:].mean(), rtol=1e-6
  )


def test_patches_of_three_pixels_are_refused():
  network = ProgressiveSegmenter(Beit(3, 16, 1, 2, 32), 3, (0,))
  with pytest.raises(
    ValueError, match=r"4, 8, 16, \.\.\. pixels a side, got 3"
  ):
    network.init(jax.random.key(0), jnp.zeros((1, 6, 6, 3)))
