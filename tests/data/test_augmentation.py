"""EDM's augmentation against numpy's flips, rotations and shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import data
from jaxgen.data import augmentation
from jaxgen.data.augmentation import Changes, apply_changes, labels_of

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.standard_normal((2, 12, 12, 3)).astype(np.float32)


def changes(n=2, **values):
  """Changes of n images, zero but for those named."""
  zero = {name: np.zeros(n, np.float32) for name in Changes._fields}
  zero["shift"] = np.zeros((n, 2), np.float32)
  filled = {
    name: np.full_like(zero[name], value) if np.ndim(value) == 0 else value
    for name, value in values.items()
  }
  return Changes(**zero | {k: jnp.asarray(v) for k, v in filled.items()})


def waves(n=16):
  """Slow waves, level at the edges as if reflected there: `[1, n, n, 1]`."""
  angle = np.pi * np.arange(n) / (n - 1)
  y, x = angle[:, None], angle[None]
  image = np.cos(x) + 0.5 * np.cos(2 * y) + 0.3 * np.cos(x) * np.cos(y)
  return image[None, ..., None].astype(np.float32)


def ramp(axis, n=33):
  """Pixels from the centre along an axis: `[1, n, n, 1]`."""
  coordinate = np.arange(n, dtype=np.float32) - (n - 1) / 2
  shape = [1, 1, 1, 1]
  shape[axis] = n
  return np.broadcast_to(coordinate.reshape(shape), (1, n, n, 1))


def test_the_filter_is_symlet_6():
  """Even shifts are orthonormal; the other channel has six zero moments."""
  h = augmentation.SYM6
  for k in range(6):
    inner = (h[: len(h) - 2 * k] * h[2 * k :]).sum()
    assert inner == pytest.approx(float(k == 0), abs=1e-10)
  n = np.arange(len(h))
  for power in range(6):
    assert ((-1.0) ** n * n**power * h).sum() == pytest.approx(0, abs=1e-4)


def test_nothing_changes_at_p_0():
  augment = jax.jit(data.augment, static_argnums=2)
  found, labels = augment(jax.random.key(0), NOISE, 0.0)
  np.testing.assert_array_equal(found, NOISE)
  np.testing.assert_array_equal(labels, np.zeros((2, 9)))


def test_flips():
  found = apply_changes(jnp.asarray(NOISE), changes(mirror=1.0))
  np.testing.assert_array_equal(found, NOISE[:, :, ::-1])
  found = apply_changes(jnp.asarray(NOISE), changes(upend=np.array([1.0, 0])))
  np.testing.assert_array_equal(found[0], NOISE[0, ::-1])
  np.testing.assert_array_equal(found[1], NOISE[1])


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (5, 4)])
def test_shifts_by_whole_pixels(right, down):
  """A part of the reflected image, to rounding."""
  shift = np.tile([right, down], (2, 1)) / (12 * augmentation.SHIFT_STD)
  found = apply_changes(jnp.asarray(NOISE), changes(shift=shift))
  around = ((0, 0), (8, 8), (8, 8), (0, 0))
  rolled = np.roll(np.pad(NOISE, around, "reflect"), (down, right), (1, 2))
  np.testing.assert_allclose(found, rolled[:, 8:-8, 8:-8], atol=1e-5)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns(quarters):
  """Counterclockwise, to a tenth of a pixel: the filter is not symmetric."""
  found = apply_changes(
    jnp.asarray(waves()), changes(1, angle=quarters * np.pi / 2)
  )
  wanted = np.rot90(waves(), quarters, (1, 2))
  np.testing.assert_allclose(found, wanted, atol=0.05)


@pytest.mark.parametrize("axis", [1, 2])
def test_zoom_and_stretch(axis):
  """On a ramp they are factors, away from the edges."""
  inside = (0, slice(12, 21), slice(12, 21))
  image = jnp.asarray(ramp(axis))
  zoomed = apply_changes(image, changes(1, zoom=2.0))
  wanted = ramp(axis) / 2**0.4
  np.testing.assert_allclose(zoomed[inside], wanted[inside], atol=0.05)
  for angle, along in ((0.0, 2), (np.pi / 2, 1)):
    stretched = apply_changes(image, changes(1, stretch=1.5, axis=angle))
    wanted = ramp(axis) * 2 ** (-0.3 if axis == along else 0.3)
    np.testing.assert_allclose(stretched[inside], wanted[inside], atol=0.05)


def test_zoom_comes_before_the_shift_and_angles_are_counterclockwise():
  """A bright point goes where the matrices say."""
  image = np.zeros((1, 33, 33, 1), np.float32)
  image[0, 16, 20] = 1.0  # four pixels right of the centre
  shift = np.array([[0.0, 3 / (33 * augmentation.SHIFT_STD)]])
  done = changes(1, zoom=5.0, angle=np.pi / 2, shift=shift)  # twice the size
  found = np.asarray(apply_changes(jnp.asarray(image), done))[0, ..., 0]
  # Right 4, so right 8, so up 8, so up 5.
  assert np.unravel_index(found.argmax(), found.shape) == (11, 16)


def test_labels_are_the_parameters():
  some = changes(
    1, mirror=1.0, zoom=-0.7, angle=0.4, stretch=2.0, axis=1.1, shift=0.3
  )
  wanted = [1, 0, -0.7, np.cos(0.4) - 1, np.sin(0.4)]
  wanted += [2 * np.cos(1.1), 2 * np.sin(1.1), 0.3, 0.3]
  np.testing.assert_allclose(labels_of(some)[0], wanted, rtol=1e-6)


def test_how_often_changes_happen():
  """Mirrors half the time; the others p, of which flips half."""
  n, p = 40_000, 0.12
  drawn = augmentation.draw_changes(jax.random.key(0), n, p)
  share = lambda x: float((x != 0).mean())
  assert share(drawn.mirror) == pytest.approx(0.5, abs=0.01)
  assert share(drawn.upend) == pytest.approx(p / 2, abs=0.005)
  for name in ("zoom", "angle", "stretch"):
    assert share(getattr(drawn, name)) == pytest.approx(p, abs=0.01)
  assert share(drawn.axis) == pytest.approx(0.5, abs=0.01)
  assert share(drawn.shift[:, 0] * drawn.shift[:, 1]) == pytest.approx(
    p, abs=0.01
  )
  for value, std in (
    (drawn.zoom, 1),
    (drawn.stretch, 1),
    (drawn.shift[:, 1], 1),
    (drawn.angle, np.pi / 3**0.5),
  ):
    kept = value[value != 0]
    assert float(kept.std()) == pytest.approx(std, rel=0.05)
    assert float(kept.mean()) == pytest.approx(0, abs=0.1)
  both = (drawn.zoom != 0) & (drawn.angle != 0)
  assert float(both.mean()) == pytest.approx(p**2, abs=0.003)
