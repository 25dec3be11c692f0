"""Operations, boxes and targets of timm, from stored arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.rand_augment import TIMM_OPS, Strength, apply_operation
from jaxgen.training.mixing import cutmix_box, smooth_labels

STORED = np.load(Path(__file__).parents[1] / "data/rand_augment.npz")


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", TIMM_OPS)
def test_operations(name, increasing):
  assert len(TIMM_OPS) == 15
  fill = tuple(STORED["fill"].tolist())
  for sign in (1, -1):
    stored = STORED[f"{name}_{'inc' if increasing else 'std'}_{sign}"]
    for level, expected in zip(STORED["levels"], stored, strict=True):
      strength = Strength(level, sign, increasing, fill)
      got = apply_operation(name, STORED["image"], strength)
      # Versions of Pillow may round an interpolation differently.
      assert np.abs(got.astype(int) - expected).max() <= 1


def test_boxes_of_cutmix():
  height, width = 5, 8
  at = np.arange(height)[:, None], np.arange(width)
  box = lambda lam, center: cutmix_box(lam, *center, height, width)
  boxes = jax.jit(jax.vmap(jax.vmap(box, (None, 0)), (0, None)))
  got = boxes(jnp.float32(STORED["lams"]), STORED["centers"].T)
  for i, (yl, yh, xl, xh) in enumerate(STORED["boxes"]):
    for j in range(height * width):
      expected = (at[0] >= yl[j]) & (at[0] < yh[j])
      expected = expected & (at[1] >= xl[j]) & (at[1] < xh[j])
      np.testing.assert_array_equal(got[i, j], expected)


def test_targets():
  for lam, expected in zip(STORED["lams"], STORED["targets"], strict=True):
    smooth = smooth_labels(jnp.asarray(STORED["labels"]), 4, 0.1)
    got = lam * smooth + (1 - lam) * smooth[::-1]
    np.testing.assert_allclose(got, expected, atol=1e-6)
