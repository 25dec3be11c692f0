"""BEiT-3's objectives: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.masked import (
  answer_loss,
  answer_targets,
  caption_loss,
  contrastive_loss,
  mask_words,
  masked_data_loss,
  retrieval_recalls,
)
from jaxgen.training import make_mesh, shard_batch

MASK, PAD = 99, 1


def texts(lengths, width):
  tokens = np.full((len(lengths), width), PAD)
  for row, length in zip(tokens, lengths, strict=True):
    row[:length] = [0, *range(10, 8 + length), 2]
  return tokens


@pytest.mark.parametrize("share", [0.15, 0.5, 0.7])
def test_masked_words(share):
  """How many, never the first or padding, and 80, 10 and 10 per cent."""
  lengths = np.random.default_rng(0).integers(2, 40, 3000)
  tokens = texts(lengths, 40)
  rng = np.random.default_rng(1)
  masked, mask = mask_words(rng, tokens, share, MASK, PAD, words=(100, 1000))
  wanted = np.clip(np.floor(lengths * share + 0.5), 1, lengths - 1)
  np.testing.assert_array_equal(mask.sum(1), wanted)
  assert not mask[:, 0].any()
  assert not mask[tokens == PAD].any()
  np.testing.assert_array_equal(masked[~mask], tokens[~mask])
  hidden = masked[mask]
  shares = [
    (hidden == MASK).mean(),
    (hidden >= 100).mean(),
    (hidden == tokens[mask]).mean(),
  ]
  np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.015)
  ends = mask[np.arange(3000), lengths - 1]  # as often as other words
  assert abs(ends.mean() - (wanted / (lengths - 1)).mean()) < 0.03


def test_every_masked_word_may_be_hidden():
  tokens = texts([8, 5], 9)
  rng = np.random.default_rng(0)
  masked, mask = mask_words(rng, tokens, 0.5, MASK, PAD, replace=0, keep=0)
  np.testing.assert_array_equal(masked, np.where(mask, MASK, tokens))
  assert masked.dtype == tokens.dtype


def test_the_loss_of_masked_data():
  """Uniform logits: log K of visual tokens, log V of words, and their sum."""
  part = lambda n, k: (
    np.zeros((2, n, k)),
    np.zeros((2, n), int),
    np.eye(2, n),
  )
  loss, metrics = masked_data_loss(part(6, 8), part(3, 5))
  np.testing.assert_allclose(loss, np.log(8) + np.log(5), rtol=1e-6)
  np.testing.assert_allclose(metrics["text_loss"], np.log(5), rtol=1e-6)
  loss, metrics = masked_data_loss(text=part(3, 5))
  np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)
  assert set(metrics) == {"text_loss", "text_accuracy"}


def test_contrastive_loss():
  """Orthonormal pairs: log(1 + (n - 1) exp(-s)). All alike: log n."""
  unit = np.eye(5, 7, dtype=np.float32)
  loss, metrics = contrastive_loss(unit, unit, 2.0)
  np.testing.assert_allclose(loss, np.log1p(4 * np.exp(-2)), rtol=1e-6)
  assert metrics == {"image_accuracy": 1.0, "text_accuracy": 1.0}
  same = np.repeat(unit[:1], 5, 0)
  loss, _ = contrastive_loss(same, unit[::-1], 3.0)
  # Images: every row is (0, 0, 0, 0, 3). Texts: every row is uniform.
  row = np.log(4 + np.exp(3.0))
  np.testing.assert_allclose(
    loss, ((5 * row - 3) / 5 + np.log(5)) / 2, rtol=1e-6
  )


def test_the_whole_batch_is_compared_over_devices():
  """Sharded over eight devices: the same loss and gradients."""
  rng = np.random.default_rng(0)
  u, v = rng.standard_normal((2, 16, 4), np.float32)
  loss = lambda u, v: contrastive_loss(u, v, 1.5)[0]
  sharded = shard_batch(make_mesh(), (u, v))
  want = jax.jit(jax.value_and_grad(loss))(u, v)
  found = jax.jit(jax.value_and_grad(loss))(*sharded)
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_answers():
  """Targets: Antol et al. 2015's accuracy. Loss: log 2 an answer at 0."""
  for count in range(11):
    people = np.arange(10) < count
    others = [np.delete(people, i).sum() for i in range(10)]
    accuracy = np.minimum(np.array(others) / 3, 1).mean()
    np.testing.assert_allclose(answer_targets(count), accuracy, rtol=1e-6)
  targets = answer_targets(np.array([[0, 2, 9], [1, 0, 0]]))
  loss = answer_loss(jnp.zeros((2, 3)), targets)
  np.testing.assert_allclose(loss, 3 * np.log(2), rtol=1e-6)
  # At the logits of the targets the loss is their entropy.
  p = np.array([[0.3, 0.6, 0.9]], np.float32)
  entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
  np.testing.assert_allclose(
    answer_loss(np.log(p / (1 - p)), p), entropy, rtol=1e-5
  )


def test_caption_loss():
  size = 5
  tokens = np.array([[0, 1, 2, 3], [4, 0, 1, 2]])
  mask = np.array([[1, 1, 0, 1], [1, 1, 0, 0]])
  q = np.full((2, 4, size), 0.1 / 4)
  np.put_along_axis(q, tokens[..., None], 0.9, axis=-1)
  # No divergence at the smoothed labels themselves.
  loss, metrics = caption_loss(np.log(q), tokens, mask)
  np.testing.assert_allclose(loss, 0, atol=1e-6)
  assert metrics["accuracy"] == 1
  # Uniform: log V less the labels' entropy, whoever is dropped.
  entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1 / 4))
  for drop_worst in (0.0, 0.2):
    loss, _ = caption_loss(
      np.zeros((2, 4, size)), tokens, mask, drop_worst=drop_worst
    )
    np.testing.assert_allclose(loss, np.log(size) - entropy, rtol=1e-5)
  # Five words, of which one fits badly and is the fifth that is dropped.
  logits = np.log(q)
  logits[0, 1] = 0.0
  logits[1, 2] = 7.0 * np.arange(size)  # not masked
  loss, _ = caption_loss(logits, tokens, mask, drop_worst=jnp.asarray(0.2))
  np.testing.assert_allclose(loss, 0, atol=1e-6)
  loss, _ = caption_loss(logits, tokens, mask)
  np.testing.assert_allclose(loss, (np.log(size) - entropy) / 5, rtol=1e-5)
  # Without smoothing the cross-entropy.
  loss, _ = caption_loss(np.log(q), tokens, mask, smoothing=0.0)
  np.testing.assert_allclose(loss, -np.log(0.9), rtol=1e-5)


def test_recalls():
  """Three images, two texts each; the second image's come second."""
  images = np.eye(3, dtype=np.float32)
  partners = np.array([0, 0, 1, 1, 2, 2])
  texts = images[partners]
  texts[2:4] = [[0.9, 0.4, 0.0], [0.0, 0.3, 0.8]]
  found = retrieval_recalls(images, texts, partners, ranks=(1, 2))
  assert found["text_recall_1"] == 1  # of 0, 0.4, 0.3 the second has 0.4
  np.testing.assert_allclose(found["image_recall_1"], 4 / 6, rtol=1e-6)
  assert found["image_recall_2"] == 1


def test_what_is_refused():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match=r"in \(0, 1\), got 1.0"):
    mask_words(rng, texts([4], 5), 1.0, MASK, PAD, replace=0)
  with pytest.raises(ValueError, match="range of words"):
    mask_words(rng, texts([4], 5), 0.5, MASK, PAD)
  with pytest.raises(ValueError, match="2 tokens at least"):
    mask_words(rng, np.array([[0, PAD]]), 0.5, MASK, PAD, replace=0)
  with pytest.raises(ValueError, match="got neither"):
    masked_data_loss()
  with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 3\)"):
    contrastive_loss(np.zeros((2, 3)), np.zeros((3, 3)), 1.0)
  with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
    answer_loss(np.zeros((2, 3)), np.zeros((2, 4)))
  with pytest.raises(ValueError, match="caption_loss needs"):
    caption_loss(np.zeros((2, 3, 5)), np.zeros((2, 4), int), np.ones((2, 3)))
  with pytest.raises(ValueError, match="needs 10 images"):
    retrieval_recalls(np.eye(3), np.eye(3), np.arange(3))
