"""Mixed batches: what they are made of, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import training
from jaxgen.training.mixing import (
  cutmix_box,
  mix,
  smooth_labels,
  soft_target_cross_entropy,
)

B, H, W, K = 4, 6, 5, 10
IMAGES = np.random.default_rng(0).normal(size=(B, H, W, 3)).astype(np.float32)
LABELS = np.array([7, 1, 4, 2])
KEYS = jax.random.split(jax.random.key(0), 2000)


@pytest.fixture(scope="module")
def mixed():
  """Images, targets of many draws: 30% left alone, 35% mixup, 35% CutMix."""
  draw = lambda key: mix(key, IMAGES, LABELS, K, prob=0.7, smoothing=0.0)
  images, targets = jax.jit(jax.vmap(draw))(KEYS)
  return np.asarray(images), np.asarray(targets)


def shares(targets):
  """lam of each batch: what the first target leaves to its own class."""
  return targets[:, 0, 7]


def own_pixels(images):
  """Where each batch of images shows its own pixel, where the partner's."""
  own = (images == IMAGES).all((1, -1))
  other = (images == IMAGES[::-1]).all((1, -1))
  return own, other


def test_images_and_targets_are_shared_out_alike(mixed):
  images, targets = mixed
  lam = shares(targets)
  one_hot = np.eye(K)[LABELS]
  per = lam[:, None, None]
  expected = per * one_hot + (1 - per) * one_hot[::-1]
  np.testing.assert_allclose(targets, expected, atol=1e-6)
  own, other = own_pixels(images)
  cut = (own | other).all((1, 2))
  # CutMix: the share of its own pixels is lam.
  np.testing.assert_allclose(own[cut].mean((1, 2)), lam[cut], atol=1e-6)
  # Mixup: the weight of its own is lam.
  per = lam[~cut][:, None, None, None, None]
  np.testing.assert_allclose(
    images[~cut], per * IMAGES + (1 - per) * IMAGES[::-1], atol=1e-6
  )
  assert abs(cut.mean() - 0.65) < 4 * 0.5 / np.sqrt(len(cut))


def test_mixup_draws_from_beta(mixed):
  """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))."""
  own, other = own_pixels(mixed[0])
  lam = shares(mixed[1])[~(own | other).all((1, 2))]
  variance = 1 / (4 * (2 * 0.8 + 1))
  assert abs(lam.mean() - 0.5) < 4 * np.sqrt(variance / len(lam))
  assert abs(lam.var() / variance - 1) < 0.1


def test_rectangles_are_uniform(mixed):
  """As over all centres and lam from 0 to 1."""
  _, other = own_pixels(mixed[0])
  lams = (jnp.arange(500) + 0.5) / 500
  box = lambda lam, y, x: cutmix_box(lam, y, x, H, W)
  over_x = jax.vmap(box, (None, None, 0))
  over_yx = jax.vmap(over_x, (None, 0, None))
  every = jax.vmap(over_yx, (0, None, None))
  boxes = np.asarray(jax.jit(every)(lams, jnp.arange(H), jnp.arange(W)))
  expected = 0.35 * boxes.mean((0, 1, 2))
  assert np.abs(other.mean(0) - expected).max() < 4 * 0.5 / np.sqrt(len(other))
  empty = ~boxes.any((3, 4))
  alone = (shares(mixed[1]) == 1).mean()
  assert abs(alone - (0.3 + 0.35 * empty.mean())) < 4 * 0.5 / np.sqrt(
    len(other)
  )


def test_one_of_the_two(monkeypatch):
  monkeypatch.setattr(jax.random, "beta", lambda key, a, b: a * 0 + 0.3)

  @jax.jit
  def three(key):
    run = lambda **options: mix(key, IMAGES, LABELS, K, **options)
    return run(cutmix_alpha=0.0), run(mixup_alpha=0.0), run(prob=0.0)

  mixup, cutmix, neither = three(KEYS[0])
  np.testing.assert_allclose(
    mixup[0], 0.3 * IMAGES + 0.7 * IMAGES[::-1], atol=1e-6
  )
  assert mixup[1][0].argmax() == 2
  own, other = own_pixels(np.asarray(cutmix[0])[None])
  assert (own | other).all()
  np.testing.assert_array_equal(neither[0], IMAGES)
  np.testing.assert_allclose(neither[1], smooth_labels(LABELS, K, 0.1))


def test_partners_are_those_of_the_whole_batch(monkeypatch):
  """Also where each device holds a part of it."""
  monkeypatch.setattr(jax.random, "beta", lambda key, a, b: a * 0 + 0.3)
  mesh = training.make_mesh(devices=jax.devices()[:2])
  batch = training.shard_batch(mesh, {"x": IMAGES, "y": LABELS})
  assert len(batch["x"].devices()) == 2
  run = jax.jit(lambda x, y: mix(KEYS[0], x, y, K, cutmix_alpha=0.0))
  images, _ = run(batch["x"], batch["y"])
  np.testing.assert_allclose(
    images, 0.3 * IMAGES + 0.7 * IMAGES[::-1], atol=1e-6
  )


def test_without_either_labels_are_only_smoothed():
  images, targets = mix(
    KEYS[0], IMAGES, LABELS, K, mixup_alpha=0.0, cutmix_alpha=0.0
  )
  assert images is IMAGES
  np.testing.assert_allclose(targets, smooth_labels(LABELS, K, 0.1))


def test_smooth_labels():
  targets = smooth_labels(LABELS, K, 0.2)
  np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
  assert targets.dtype == jnp.float32
  np.testing.assert_allclose(targets[1], [0.02, 0.82] + [0.02] * 8, atol=1e-7)
  # Smoothing commutes with mixing, and dense targets may be smoothed.
  dense = smooth_labels(jnp.asarray(np.eye(K)[LABELS]), K, 0.2)
  np.testing.assert_allclose(dense, targets)


def test_soft_targets():
  """-log p of the class for one-hot targets; log K for uniform logits."""
  logits = np.random.default_rng(0).normal(size=(B, K)).astype(np.float32)
  one_hot = np.eye(K, dtype=np.float32)[LABELS]
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  loss = soft_target_cross_entropy(logits, one_hot)
  np.testing.assert_allclose(loss, -np.log(p[np.arange(B), LABELS]), rtol=1e-5)
  uniform = soft_target_cross_entropy(jnp.zeros((B, K), jnp.bfloat16), one_hot)
  assert uniform.dtype == jnp.float32
  np.testing.assert_allclose(uniform, np.log(K), rtol=1e-6)
  # Linear in the targets.
  mixed_loss = soft_target_cross_entropy(logits, 0.3 * one_hot + 0.7 / K)
  even = -np.log(p).mean(-1)
  np.testing.assert_allclose(mixed_loss, 0.3 * loss + 0.7 * even, rtol=1e-5)


def test_halves_stay_halves():
  x = jax.ShapeDtypeStruct(IMAGES.shape, jnp.bfloat16)
  images, targets = jax.eval_shape(lambda x: mix(KEYS[0], x, LABELS, K), x)
  assert images.dtype == jnp.bfloat16
  assert targets.dtype == jnp.float32


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"mixup_alpha": -1.0}, "must be >= 0, got -1.0 and 1.0"),
    ({"prob": 1.5}, r"lie in \[0, 1\], got 1.5 and 0.5"),
    ({"smoothing": 1.0}, r"smoothing must lie in \[0, 1\), got 1.0"),
  ],
)
def test_what_is_wrong_is_said(options, message):
  with pytest.raises(ValueError, match=message):
    mix(KEYS[0], IMAGES, LABELS, K, **options)


def test_targets_of_other_classes():
  with pytest.raises(ValueError, match=r"\[B\] or \[B, 10\], got \(4, 3\)"):
    smooth_labels(jnp.zeros((4, 3)), K)
