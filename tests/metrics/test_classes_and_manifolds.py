import numpy as np
import pytest

from jaxgen.metrics.inception_score import (
  add_logits,
  inception_score,
  no_classes,
)
from jaxgen.metrics.precision_recall import precision_recall


def score(logits, batch=7, splits=10):
  sums = no_classes(logits.shape[1], splits)
  for start in range(0, len(logits), batch):
    sums = add_logits(sums, logits[start : start + batch], start, len(logits))
  return inception_score(sums)


def test_sure_and_even_classes_score_their_number():
  """exp(H(y) - H(y | x)) = K if every class is sure and equally frequent."""
  logits = np.tile(np.eye(5) * 1000, (20, 1))
  np.testing.assert_allclose(score(logits), (5, 0), atol=1e-9)


def test_useless_classes_score_one():
  logits = np.tile(np.array([[0.3, 2.0, -1.0]]), (40, 1))
  np.testing.assert_allclose(score(logits), (1, 0), atol=1e-12)


def test_a_known_mutual_information():
  """Two sure classes of shares q and 1 - q: exp of the entropy of q."""
  logits = np.repeat(np.eye(2) * 1000, [30, 10], axis=0)
  entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
  np.testing.assert_allclose(
    score(logits, splits=1), (np.exp(entropy), 0), atol=1e-12
  )


def test_splits_are_consecutive_and_batches_do_not_matter():
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((103, 6)) * 3
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  wanted = []
  for i in range(10):
    part = p[i * 103 // 10 : (i + 1) * 103 // 10]
    kl = (part * np.log(part / part.mean(0))).sum(1)
    wanted.append(np.exp(kl.mean()))
  for batch in (1, 13, 103):
    found = score(logits, batch)
    np.testing.assert_allclose(found, (np.mean(wanted), np.std(wanted)))


def test_every_split_needs_images():
  with pytest.raises(ValueError, match="no images"):
    inception_score(no_classes(3))
  with pytest.raises(ValueError, match="of 9 in 10 splits"):
    add_logits(no_classes(3), np.zeros((1, 3)), 0, 9)
  with pytest.raises(ValueError, match=r"logits \[n, 3\]"):
    add_logits(no_classes(3), np.zeros((1, 4)), 0, 20)


def test_manifolds_on_a_line():
  """Radii to the second neighbour among 0, 1, ..., 9 are 1 inside, 2 at ends.

  The manifold is [-2, 11]: fakes at -1.9 and 5.5 lie on it, 20 and 30 do not.
  """
  real = np.arange(10.0)[:, None]
  fake = np.array([-1.9, 5.5, 20, 30])[:, None]
  # Fakes' radii: 21.9, 14.5, 14.5, 24.5; together they reach all reals.
  for block in (1, 3, 100):
    assert precision_recall(real, fake, k=2, block=block) == (0.5, 1.0)


def test_manifolds_agree_with_plain_loops():
  rng = np.random.default_rng(1)
  real = rng.standard_normal((60, 4)) + 100
  fake = rng.standard_normal((45, 4)) * 0.7 + 100.5

  def covered(x, centers):
    gaps = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)
    radii = np.sort(gaps(centers, centers), axis=1)[:, 3]  # 0 is itself
    return (gaps(x, centers) <= radii).any(1).mean()

  wanted = (covered(fake, real), covered(real, fake))
  np.testing.assert_allclose(precision_recall(real, fake), wanted)


def test_identical_sets_are_precise_and_complete():
  x = np.random.default_rng(2).standard_normal((50, 3))
  assert precision_recall(x, x) == (1.0, 1.0)
  with pytest.raises(ValueError, match="more than 3 vectors"):
    precision_recall(x[:3], x)
  with pytest.raises(ValueError, match=r"\[n, D\] and \[m, D\]"):
    precision_recall(x, x[:, :2])
