"""BEiT's views: one box, two sizes."""

import dataclasses

import numpy as np
import pytest

from jaxgen.data import to_unit, train_batches
from jaxgen.data.views import BEIT_V1, BEIT_V2, LabelledView, PairOfViews

PLAIN = PairOfViews(32, 16, jitter=(0, 0, 0))


def blocks(channels=3):
  """Large even blocks: two renderings of one part agree but at edges."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (6, 8, channels), np.uint8)
  return small.repeat(40, 0).repeat(40, 1)


def test_the_presets_are_the_papers():
  assert (
    PairOfViews(224, 112, "bicubic", "lanczos", (0.08, 1.0), exact=False)
    == BEIT_V1
  )
  assert (BEIT_V1.jitter, BEIT_V1.flip) == ((0.4, 0.4, 0.4), 0.5)
  assert (BEIT_V1.grid, BEIT_V1.num_masked) == ((14, 14), 75)
  changed = {"second_size", "second_filter", "scale", "exact"}
  v1, v2 = map(dataclasses.asdict, (BEIT_V1, BEIT_V2))
  assert {name for name in v1 if v1[name] != v2[name]} == changed
  assert (BEIT_V2.second_size, BEIT_V2.scale) == (224, (0.2, 1.0))


def test_both_views_show_the_same():
  rng = np.random.default_rng(0)
  for _ in range(20):
    found = BEIT_V1({"image": blocks()}, rng)
    assert found["image"].shape == (224, 224, 3)
    assert found["second"].shape == (112, 112, 3)
    halved = found["image"].reshape(112, 2, 112, 2, 3).mean((1, 3))
    error = np.abs(halved - found["second"])
    assert np.median(error) <= 1
    assert error.mean() < 8  # two independent boxes differ by about 80
    assert found["mask"].shape == (14, 14)
    assert 55 < found["mask"].sum() <= 75
  exact = BEIT_V2({"image": blocks()}, rng)
  assert exact["mask"].sum() == 75
  np.testing.assert_array_equal(exact["image"], exact["second"])


def test_small_gray_images_are_enlarged():
  views = PairOfViews(56, 28, grid=(7, 7), num_masked=20, min_block=4)
  image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
  found = views({"image": image}, np.random.default_rng(0))
  shapes = {name: array.shape for name, array in found.items()}
  assert shapes == {"image": (56, 56, 1), "second": (28, 28, 1), "mask": (7, 7)}


def test_random_masks_are_uniform():
  views = dataclasses.replace(
    PLAIN, masking="random", grid=(4, 5), num_masked=8
  )
  rng = np.random.default_rng(0)
  image = {"image": blocks()[:20, :20]}
  masks = np.stack([views(image, rng)["mask"] for _ in range(500)])
  assert (masks.sum((1, 2)) == 8).all()
  assert np.abs(masks.mean(0) - 0.4).max() < 4 * np.sqrt(0.24 / 500)
  # Without replacement, pairs are masked with 8 / 20 * 7 / 19.
  pairs = (masks[:, :, 1:] & masks[:, :, :-1]).mean()
  assert abs(pairs - 8 * 7 / 380) < 0.012
  none = dataclasses.replace(PLAIN, num_masked=0)
  assert not none(image, rng)["mask"].any()


def test_flips_and_colours_change_both_views():
  flipped = dataclasses.replace(PLAIN, scale=(1, 1), ratio=(1, 1), flip=1.0)
  ramp = np.arange(64, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
  found = flipped({"image": ramp}, np.random.default_rng(0))
  for name in ("image", "second"):
    assert (np.diff(found[name][:, :, 0].astype(int), axis=1) < 0).all()
  dark = dataclasses.replace(PLAIN, jitter=(1.0, 0, 0))
  image = {"image": np.full((8, 8, 3), 100, np.uint8)}
  rng = np.random.default_rng(0)
  for _ in range(10):
    found = dark(image, rng)
    levels = [np.unique(found[k]) for k in ("image", "second")]
    assert len(levels[0]) == 1
    np.testing.assert_array_equal(*levels)


def test_batches_of_views():
  source = [{"image": blocks()[: 90 + i], "label": i} for i in range(6)]
  batches = train_batches(source, 4, 32, 0, transform=PLAIN)
  batch = next(batches)
  assert batch["image"].shape == (4, 32, 32, 3)
  assert batch["second"].shape == (4, 16, 16, 3)
  assert batch["second"].dtype == np.float32
  assert batch["mask"].dtype == np.bool_
  again = next(train_batches(source, 4, 32, 0, transform=PLAIN))
  for name in batch:
    np.testing.assert_array_equal(batch[name], again[name])


def test_labelled_views():
  source = [{"image": blocks(), "label": i} for i in range(8)]
  view = LabelledView(24)
  batch = next(train_batches(source, 8, 24, 0, transform=view))
  assert batch["image"].shape == (8, 24, 24, 3)
  assert batch["image"].dtype == np.float32
  assert sorted(batch["label"]) == list(range(8))
  # Erased pixels are normal, others are levels in [-1, 1].
  levels = (batch["image"] + 1) * 127.5
  whole = (np.abs(levels - levels.round()) < 1e-3).all((1, 2, 3))
  assert 0 < whole.sum() < 8
  plain = LabelledView(24, (1.0, 1.0), flip=0.0, magnitude=0.0, erase=0.0)
  square = blocks()[:240, :240]
  got = plain({"image": square, "label": 3}, np.random.default_rng(0))
  assert got["label"] == 3
  assert got["image"].shape == (24, 24, 3)
  assert np.isin(got["image"], to_unit(np.arange(256, dtype=np.uint8))).all()


def test_masking_has_two_kinds():
  with pytest.raises(ValueError, match="blockwise or random, got 'block'"):
    PairOfViews(masking="block")
