"""Masks of patches and the loss over them."""

import numpy as np
import pytest

from jaxgen.masked import blockwise_mask, masked_image_loss, random_mask


def test_the_originals_statistics():
  """The released code, over 3000 masks: mean 74.44, min 64, 75 in 66%."""
  rng = np.random.default_rng(0)
  counts = np.array([blockwise_mask(rng).sum() for _ in range(3000)])
  assert abs(counts.mean() - 74.44) < 0.12  # 4 standard errors of both
  assert 60 <= counts.min() <= 68
  assert counts.max() == 75
  assert abs((counts == 75).mean() - 0.66) < 0.05


def test_exactly_as_many_as_asked_for():
  rng = np.random.default_rng(0)
  for _ in range(200):
    mask = blockwise_mask(rng, exact=True)
    assert mask.shape == (14, 14)
    assert mask.sum() == 75
  assert blockwise_mask(rng, (4, 6), 24, exact=True).all()
  assert not blockwise_mask(rng, num_masked=0).any()


def test_random_masks_have_any_patch():
  rng = np.random.default_rng(0)
  masks = np.stack([random_mask(rng) for _ in range(400)])
  assert (masks.sum((1, 2)) == 75).all()
  p = 75 / 196
  assert np.abs(masks.mean(0) - p).max() < 4.5 * np.sqrt(p * (1 - p) / 400)
  assert random_mask(rng, (3, 5), 15).all()
  with pytest.raises(ValueError, match=r"lie in \[0, 15\], got 16"):
    random_mask(rng, (3, 5), 16)


def test_blocks_not_single_patches():
  """Neighbours of masked patches are masked far more often than others."""
  rng = np.random.default_rng(0)
  masks = np.stack([blockwise_mask(rng, exact=True) for _ in range(200)])
  both = (masks[:, 1:] & masks[:, :-1]).mean()
  assert both > 0.28  # independent patches: 0.38^2 = 0.15


def test_masked_loss():
  """Uniform logits: log K. A sure answer: 0. Patches in view do not count."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 8, (2, 6))
  mask = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]])
  loss, metrics = masked_image_loss(np.zeros((2, 6, 8)), tokens, mask)
  np.testing.assert_allclose(loss, np.log(8), rtol=1e-6)
  sure = 100.0 * np.eye(8)[tokens]
  loss, metrics = masked_image_loss(sure, tokens, mask)
  np.testing.assert_allclose([loss, metrics["accuracy"]], [0, 1], atol=1e-6)
  sure[mask == 0] = rng.standard_normal((9, 8))
  np.testing.assert_allclose(masked_image_loss(sure, tokens, mask)[0], 0)
  sure[0, 0] = 0.0  # one of three says nothing
  loss, _ = masked_image_loss(sure, tokens, mask)
  np.testing.assert_allclose(loss, np.log(8) / 3, rtol=1e-5)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_masked": 197}, r"in \[0, 196\], got 197"),
    ({"min_block": 0}, "got 0 and 0.3"),
    ({"min_aspect": 2.0}, "got 16 and 2.0"),
  ],
)
def test_what_cannot_be_masked(options, message):
  with pytest.raises(ValueError, match=message):
    blockwise_mask(np.random.default_rng(0), **options)
  with pytest.raises(ValueError, match="logits"):
    masked_image_loss(
      np.zeros((2, 6, 8)), np.zeros((2, 5), int), np.zeros((2, 6))
    )
