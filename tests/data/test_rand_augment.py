"""How RandAugment draws; its operations are compared with timm's elsewhere."""

import numpy as np
import pytest

from jaxgen.data.rand_augment import (
  BEIT3_OPS,
  OPERATIONS,
  TIMM_OPS,
  Strength,
  apply_operation,
  rand_augment,
  random_erasing,
)


def noise(height=12, width=10, channels=3):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, channels), np.uint8)


def test_each_operation_drawn_is_done_half_the_time():
  rng = np.random.default_rng(0)
  image = np.zeros((1, 1, 3), np.uint8)
  # Inverted an odd number of times is white: n of them cancel in pairs.
  for n, p, expected in ((1, 0.5, 0.5), (2, 0.5, 0.5), (2, 0.2, 0.32)):
    options = {"n": n, "p": p, "ops": ["invert"]}
    white = [rand_augment(rng, image, **options).all() for _ in range(800)]
    assert abs(np.mean(white) - expected) < 4 * 0.5 / np.sqrt(800)


def test_levels_are_normal_and_clipped():
  """`solarize_add` of black shows int(11 level)."""
  rng = np.random.default_rng(0)
  image = np.zeros((1, 1, 3), np.uint8)
  options = {"p": 1.0, "n": 1, "ops": ["solarize_add"]}
  draw = lambda m, mstd: [
    int(rand_augment(rng, image, m, mstd=mstd, **options)[0, 0, 0])
    for _ in range(800)
  ]
  assert set(draw(9, 0)) == {99}
  levels = (np.array(draw(9, 0.5)) + 0.5) / 11
  assert abs((levels > 10).mean() - 0.0228) < 4 * 0.0228**0.5 / 800**0.5
  below = levels[levels < 9]  # half of a normal distribution
  assert abs(len(below) / 800 - 0.5) < 0.08
  assert abs((9 - below).mean() - 0.5 * np.sqrt(2 / np.pi)) < 0.08
  assert abs((np.array(draw(0, 0.1)) == 0).mean() - 0.82) < 0.08


def test_signs_are_even():
  rng = np.random.default_rng(0)
  image = np.full((1, 1, 3), 100, np.uint8)
  options = {"p": 1.0, "n": 1, "mstd": 0.0, "ops": ["brightness"]}
  got = [rand_augment(rng, image, 5, **options)[0, 0, 0] for _ in range(400)]
  assert set(got) == {55, 145}  # 1 - 0.45 and 1 + 0.45
  assert abs(np.mean(np.array(got) == 55) - 0.5) < 4 * 0.5 / 20


def test_all_operations_are_drawn_alike():
  seen = []
  image = (
    noise(40, 40) // 2 + 50
  )  # autocontrast would change nothing of all levels
  rng = np.random.default_rng(0)
  for names in (TIMM_OPS, BEIT3_OPS):
    outcomes = {
      apply_operation(name, image, Strength(5, sign)).tobytes(): name
      for name in names
      for sign in (-1, 1)
    }
    options = {"m": 5, "mstd": 0, "n": 1, "p": 1.0, "ops": names}
    for _ in range(30 * len(names)):
      seen.append(outcomes[rand_augment(rng, image, **options).tobytes()])
    counts = np.array([seen.count(name) for name in names])
    assert counts.min() > 30 - 4 * np.sqrt(30)
    seen.clear()


def test_what_moves_in_has_the_colour_of_fill():
  image, fill = np.zeros((20, 20, 3), np.uint8), (124, 116, 104)
  for name in ("shear_x", "translate_x", "translate_y", "rotate"):
    got = apply_operation(name, image, Strength(10, fill=fill))
    assert (got.reshape(-1, 3) == fill).all(1).sum() >= 10
    gray = apply_operation(name, image[..., :1], Strength(10, fill=fill))
    assert (gray == 115).sum() >= 10


def test_gray_images_have_no_colour_to_change():
  rng = np.random.default_rng(0)
  image = noise(28, 28, 1)
  for _ in range(60):
    got = rand_augment(rng, image, n=3, p=1.0)
    assert got.shape == image.shape
    assert got.dtype == np.uint8
  for name in OPERATIONS:
    assert apply_operation(name, image, Strength(9)).shape == image.shape


def test_operations_on_levels():
  """From their definitions."""
  image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
  change = lambda name, level: apply_operation(name, image, Strength(level))
  np.testing.assert_array_equal(change("invert", 3), 255 - image)
  np.testing.assert_array_equal(change("identity", 3), image)
  for level, bits in ((0, 4), (2.4, 4), (2.5, 3), (5, 2), (9, 1), (10, 0)):
    kept = change("posterize", level)
    np.testing.assert_array_equal(
      kept, image.astype(int) // 2 ** (8 - bits) * 2 ** (8 - bits)
    )
  for level, threshold in ((0, 256), (5, 128), (10, 0)):
    expected = np.where(image < threshold, image, 255 - image)
    np.testing.assert_array_equal(change("solarize", level), expected)


def erased(n=2000, shape=(40, 30), **options):
  """How often something is erased, and each erased rectangle."""
  rng = np.random.default_rng(0)
  image = np.full((*shape, 3), 7.0, np.float32)
  found = []
  for _ in range(n):
    out = random_erasing(rng, image, **options)
    hit = (out != 7).all(-1)
    if hit.any():
      rows, columns = np.flatnonzero(hit.any(1)), np.flatnonzero(hit.any(0))
      box = np.ix_(rows, columns)
      assert hit[box].all()  # a full rectangle
      assert np.ptp(rows) == len(rows) - 1
      assert np.ptp(columns) == len(columns) - 1
      assert (out[~hit] == 7).all()
      found.append((len(rows), len(columns), out[box]))
  assert (image == 7).all()
  return len(found) / n, found


def test_erasing_is_a_rectangle_of_noise():
  share, found = erased()
  assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)
  h, w = np.array([f[:2] for f in found]).T
  area = h * w / 1200
  assert area.min() > 0.01
  assert area.max() < 0.36
  # Uniform up to the tall and the wide ones, which do not fit.
  assert 0.14 < area.mean() < 0.02 / 2 + 1 / 6 + 0.01
  large = h * w > 50
  assert (h / w)[large].min() > 0.3 * 0.8
  assert (h / w)[large].max() < 1 / 0.3 / 0.8
  assert abs(np.log(h / w).mean()) < 0.15
  values = np.concatenate([f[2].reshape(-1, 3) for f in found])
  assert np.abs(values.mean(0)).max() < 4 / np.sqrt(len(values))
  assert np.abs(values.std(0) - 1).max() < 4 / np.sqrt(2 * len(values))


def test_noise_of_other_statistics():
  mean, std = (0.5, 0.0, -0.5), (0.1, 0.2, 0.3)
  _, found = erased(200, p=1.0, mean=mean, std=std)
  values = np.concatenate([f[2].reshape(-1, 3) for f in found])
  np.testing.assert_allclose(values.mean(0), mean, atol=0.01)
  np.testing.assert_allclose(values.std(0), std, atol=0.01)


def test_what_is_wrong_is_said():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match=r"m in \[0, 10\] .* got 11 and 0.5"):
    rand_augment(rng, noise(), 11)
  with pytest.raises(ValueError, match=r"called \['cutout'\]: there are ident"):
    rand_augment(rng, noise(), ops=["cutout"])
  with pytest.raises(TypeError, match="images of floats, got uint8"):
    random_erasing(rng, noise())
