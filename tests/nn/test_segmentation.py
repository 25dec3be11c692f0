"""UPerNet on BEiT, sliding windows, and the scores of segmentations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.metrics.segmentation import confusion_matrix, segmentation
from jaxgen.nn.beit import BEITS
from jaxgen.nn.beit3 import Beit3
from jaxgen.nn.beit3_tasks import ImageBackbone
from jaxgen.nn.segmentation import (
  FCNHead,
  Segmenter,
  Upsample,
  pool_to,
  slide,
)


def test_sizes_of_the_released_network():
  """Channels of BEiT-B's heads, logits at strides 4 and 16, for ADE20K."""
  backbone = BEITS["base"].clone(
    relative_positions="per_block", mask_token=False
  )
  x = jnp.zeros((1, 512, 512, 3))
  out, v = jax.eval_shape(
    Segmenter(backbone).init_with_output, jax.random.key(0), x
  )
  assert [o.shape for o in out] == [(1, 128, 128, 150), (1, 32, 32, 150)]
  head = v["params"]["decode_head"]
  assert head["bottleneck"]["kernel"].shape == (3, 3, 5 * 768, 768)
  assert head["fpn_bottleneck"]["kernel"].shape == (3, 3, 4 * 768, 768)
  auxiliary = v["params"]["auxiliary_head"]
  assert auxiliary["conv"]["kernel"].shape == (3, 3, 768, 256)


def test_a_head_on_beit_3():
  """The auxiliary head sees the third level's patches, in rows, and no more."""
  trunk = Beit3(8, 16, 2, 2, 32, 40, 20, output_norm=False)
  network = Segmenter(ImageBackbone(trunk), 5, (1, 1, 0, 1))
  x = np.random.default_rng(0).standard_normal((2, 32, 48, 3), np.float32)
  (logits, _), v = jax.eval_shape(
    network.init_with_output, jax.random.key(0), x
  )
  assert logits.shape == (2, 16, 24, 5)
  rng = np.random.default_rng(1)
  v = jax.tree.map(lambda p: rng.random(p.shape, np.float32) - 0.2, v)
  params = dict(v["params"]["backbone"]["trunk"])
  del params["block_1"]
  head = {name: v[name]["auxiliary_head"] for name in v}

  @jax.jit
  def both(x):
    first = trunk.clone(num_layers=1).apply({"params": params}, x)
    patches = first.image[:, 1:].reshape(2, 4, 6, 16)
    return network.apply(v, x)[1], FCNHead(5).apply(head, patches, False)

  np.testing.assert_allclose(*both(x), rtol=1e-4, atol=1e-5)


def test_means_of_bins():
  x = np.arange(7.0)[None, :, None, None] * np.ones((1, 1, 4, 1))
  pooled = pool_to(jnp.asarray(x), 3)[0, :, 0, 0]
  np.testing.assert_allclose(pooled, [1, 3, 5])  # of 0-2, 2-4 and 4-6
  np.testing.assert_allclose(pool_to(x, 1)[0, 0, 0, 0], 3)


def test_the_transposed_convolution_is_a_convolutions_transpose():
  x = np.random.default_rng(0).standard_normal((1, 3, 2, 4), np.float32)
  layer = Upsample()
  v = layer.init(jax.random.key(0), x)
  kernel, bias = v["params"]["kernel"], v["params"]["bias"]

  def down(y):
    return jax.lax.conv_general_dilated(
      y, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  _, transpose = jax.vjp(down, jnp.zeros((1, 6, 4, 4)))
  want = transpose(x)[0] + bias[None, None, None]
  np.testing.assert_allclose(layer.apply(v, x), want, rtol=1e-5, atol=1e-5)


def test_windows_cover_and_agree():
  """A pixel-wise predictor gives the same with windows; others are averaged."""
  x = np.random.default_rng(0).random((2, 11, 14, 3), np.float32)
  pixelwise = lambda crop: jnp.concatenate([crop, crop**2], -1)
  np.testing.assert_allclose(slide(pixelwise, x, 8, 5), pixelwise(x), rtol=1e-5)
  calls = []

  def numbered(crop):
    if not isinstance(crop, jax.core.Tracer):
      calls.append(crop.shape)
    return jnp.full((*crop.shape[:3], 1), float(len(calls)))

  found = slide(numbered, x[:1, :8], 8, 4)[0, 0, :, 0]
  np.testing.assert_allclose(
    found, [1] * 4 + [1.5] * 2 + [2] * 2 + [2.5] * 4 + [3] * 2
  )
  assert set(calls) == {(1, 8, 8, 3)}
  with pytest.raises(ValueError, match="got 7 x 14 and 4"):
    slide(numbered, x[:, :7], 8, 4)
  with pytest.raises(ValueError, match="got 11 x 14 and 9"):
    slide(numbered, x, 8, 9)


def test_scores_counted_by_hand():
  labels = np.array([[0, 0, 1, 1], [1, 2, 255, 0]])
  predicted = np.array([[0, 1, 1, 1], [2, 2, 0, 0]])
  matrix = confusion_matrix(labels, predicted, 4)
  assert matrix.tolist() == [
    [2, 1, 0, 0],
    [0, 2, 1, 0],
    [0, 0, 1, 0],
    [0, 0, 0, 0],
  ]
  scores = segmentation(matrix)
  np.testing.assert_allclose(scores.iou, [2 / 3, 2 / 4, 1 / 2, np.nan])
  np.testing.assert_allclose(scores.mean_iou, (2 / 3 + 1 / 2 + 1 / 2) / 3)
  np.testing.assert_allclose(scores.mean_accuracy, (2 / 3 + 2 / 3 + 1) / 3)
  np.testing.assert_allclose(scores.accuracy, 5 / 7)
  halves = [confusion_matrix(labels[i], predicted[i], 4) for i in (0, 1)]
  np.testing.assert_array_equal(sum(halves), matrix)


def test_what_cannot_be_scored():
  with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
    confusion_matrix(np.zeros(2), np.zeros(3), 2)
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got"):
    confusion_matrix(np.array([0, 2]), np.array([0, 1]), 2)
  with pytest.raises(ValueError, match="counts no pixel"):
    segmentation(np.zeros((2, 2), int))
