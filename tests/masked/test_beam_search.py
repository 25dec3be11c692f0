"""Beam search against all texts there are; tests/parity has the original."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.masked import beam_search

START, END, PAD = 0, 1, 2
SIZE, LENGTH = 4, 6


def log_probabilities(seed, batch):
  """Of the next word given the last two: memory is needed."""
  logits = np.random.default_rng(seed).normal(0, 1.5, (batch, SIZE, SIZE, SIZE))
  logits = logits.astype(np.float32)
  return np.asarray(jax.nn.log_softmax(logits))


@functools.partial(jax.jit, static_argnums=1)
def searched(table, beams, penalty):
  rows = jnp.arange(len(table)).repeat(beams)

  def step(before, words, at):
    del at
    return table[rows, before, words], words

  return beam_search(
    step,
    jnp.full_like(rows, START),
    len(table),
    start=START,
    end=END,
    pad=PAD,
    num_beams=beams,
    length_penalty=penalty,
    max_length=LENGTH,
  )


def finished_texts():
  """All that may be found: a text and the words whose log p it is given."""
  words = [word for word in range(SIZE) if word != END]
  for count in range(LENGTH - 2):
    for text in itertools.product(words, repeat=count):
      if count < LENGTH - 3:
        yield text, (END,)
      else:  # the last word gives way to the end
        yield text, range(SIZE)


def scores_of(table, penalty):
  scores = {}
  for text, lasts in finished_texts():
    for last in lasts:
      path = (START, START, *text, last)
      triples = zip(path, path[1:], path[2:], strict=False)
      log_p = sum(table[triple] for triple in triples)
      score = log_p / (len(text) + 2) ** penalty
      scores[text] = max(score, scores.get(text, -np.inf))
  return scores


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.5])
def test_wide_beams_find_the_best_of_all_texts(penalty):
  table = log_probabilities(0, 12)
  tokens, found = searched(table, 27, penalty)
  lengths = set()
  for i in range(12):
    scores = scores_of(table[i], penalty)
    best = max(scores, key=scores.get)
    wanted = [START, *best, END, *[PAD] * LENGTH][:LENGTH]
    assert tokens[i].tolist() == wanted
    np.testing.assert_allclose(found[i], scores[best], rtol=1e-5)
    lengths.add(len(best))
  assert len(lengths) > 1  # neither all short nor all cut off


def test_narrow_beams_find_no_better_one():
  table = log_probabilities(1, 12)
  tokens, found = searched(table, 2, 0.6)
  for i in range(12):
    scores = scores_of(table[i], 0.6)
    text = tokens[i].tolist()
    text = tuple(text[1 : text.index(END)])
    np.testing.assert_allclose(found[i], scores[text], rtol=1e-5)
    assert found[i] <= max(scores.values()) + 1e-5


def test_one_beam_is_greedy_till_the_end():
  """A sure chain 3, 2, 3, END is found, whatever comes after."""
  table = np.full((1, SIZE, SIZE, SIZE), -20.0, np.float32)
  chain = [START, START, 3, 2, 3, END]
  for a, b, c in zip(chain, chain[1:], chain[2:], strict=False):
    table[0, a, b, c] = 0.0
  tokens, score = searched(table, 1, 0.6)
  assert tokens[0].tolist() == [START, 3, 2, 3, END, PAD]
  np.testing.assert_allclose(score, 0, atol=1e-6)


def test_what_cannot_be_searched():
  with pytest.raises(ValueError, match="got 0 and 32"):
    beam_search(None, (), 1, start=0, end=1, pad=2, num_beams=0)
  with pytest.raises(ValueError, match="got 3 and 2"):
    beam_search(None, (), 1, start=0, end=1, pad=2, max_length=2)
