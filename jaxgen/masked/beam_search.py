"""Beam search as one compiled program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.types import Array, PyTree

_NEVER = -1e9  # log-probability of a beam that does not exist

# (memory, last words [B beams], their place) -> logits [B beams, V], memory.
Step = Callable[[PyTree, Array, Array], tuple[Array, PyTree]]


class _Search(NamedTuple):
  """Where a search is.

  Attributes:
    length: tokens of every beam, the start included.
    tokens: `[B, beams, max_length]`.
    scores: log-probabilities `[B, beams]`.
    best: tokens of the best text that has ended, `[B, max_length]`.
    best_score: its score `[B]`.
    done: `[B]`, no beam can become better than `best`.
    memory: the step's.
  """

  length: Array
  tokens: Array
  scores: Array
  best: Array
  best_score: Array
  done: Array
  memory: PyTree


def beam_search(
  step: Step,
  memory: PyTree,
  batch: int,
  *,
  start: int,
  end: int,
  pad: int,
  num_beams: int = 3,
  length_penalty: float = 0.6,
  max_length: int = 32,
) -> tuple[Array, Array]:
  """The text of the highest log p(text) / n^length_penalty that it finds.

  n counts the tokens, start and end included. As BEiT-3's released code: of
  each example the `num_beams` likeliest unfinished texts are kept, and a text
  is finished by an end token that is likelier than the last of those. At
  n = max_length - 1 every text is finished: the likeliest next token is in its
  score, but gives way to the end. A search stops when no beam can win.

  Args:
    step: the logits of the next tokens `[B num_beams, V]`, and its memory after
      the last tokens; it is given memory, the last tokens `[B num_beams]` and
      their place in the text, from 0.
    memory: arrays `[B num_beams, ...]`, which are sorted along with the beams.
    batch: B.
    start: the token before every text.
    end: the token after every text.
    pad: the token after the end.
    num_beams: how many.
    length_penalty: 0 for none; higher ones like longer texts.
    max_length: of the texts, start and end included, at least 3.

  Returns:
    Tokens `[B, max_length]`, int32, and their scores `[B]`.

  Raises:
    ValueError: if num_beams or max_length is too small.
  """
  if num_beams < 1 or max_length < 3:
    raise ValueError(
      "beam_search needs num_beams >= 1 and max_length >= 3, got "
      f"{num_beams} and {max_length}."
    )
  empty = jnp.full((batch, num_beams, max_length), pad, jnp.int32)
  scores = jnp.full((batch, num_beams), _NEVER).at[:, 0].set(0.0)
  search = _Search(
    length=jnp.asarray(1),
    tokens=empty.at[:, :, 0].set(start),
    scores=scores,
    best=empty[:, 0],
    best_score=jnp.full((batch,), -jnp.inf),
    done=jnp.zeros((batch,), bool),
    memory=memory,
  )

  def advance(search: _Search) -> _Search:
    last = jax.lax.dynamic_index_in_dim(
      search.tokens, search.length - 1, axis=2, keepdims=False
    )
    logits, memory = step(search.memory, last.reshape(-1), search.length - 1)
    search = search._replace(memory=memory)
    return _advanced(search, logits, end, length_penalty)

  search = jax.lax.while_loop(
    lambda s: (s.length < max_length - 1) & ~s.done.all(), advance, search
  )
  return search.best, search.best_score


def _advanced(
  search: _Search, logits: Array, end: int, length_penalty: float
) -> _Search:
  """The search with another token."""
  batch, beams, max_length = search.tokens.shape
  size = logits.shape[-1]
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  log_p = log_p.reshape(batch, beams, size) + search.scores[..., None]
  # Each beam can end once, so that this many hold `beams` that do not end.
  scores, index = jax.lax.top_k(log_p.reshape(batch, -1), 2 * beams)
  parent, word = index // size, index % size
  is_end = word == end

  n = search.length + 1
  bound = scores[:, 0] / (max_length - 1.0) ** length_penalty
  done = search.done | (search.best_score >= bound)
  unfinished_before = jnp.cumsum(~is_end, axis=1) - ~is_end
  finished = is_end & (unfinished_before < beams)
  finished |= n == max_length - 1
  candidates = jnp.where(finished, scores, -jnp.inf)
  chosen = candidates.argmax(1)
  score = _at(candidates, chosen) / n.astype(jnp.float32) ** length_penalty
  better = (score > search.best_score) & ~done
  text = _at(search.tokens, _at(parent, chosen))
  text = text.at[:, search.length].set(end)

  order = jnp.argsort(is_end, axis=1, stable=True)[:, :beams]
  parent, word, scores = (
    jnp.take_along_axis(x, order, axis=1) for x in (parent, word, scores)
  )
  tokens = jnp.take_along_axis(search.tokens, parent[..., None], axis=1)
  rows = (parent + beams * jnp.arange(batch)[:, None]).reshape(-1)
  return _Search(
    length=n,
    tokens=tokens.at[:, :, search.length].set(word),
    scores=scores,
    best=jnp.where(better[:, None], text, search.best),
    best_score=jnp.where(better, score, search.best_score),
    done=done,
    memory=jax.tree.map(lambda leaf: leaf[rows], search.memory),
  )


def _at(x: Array, index: Array) -> Array:
  """x[i, index[i]] for every i."""
  index = index.reshape(index.shape + (1,) * (x.ndim - 1))
  return jnp.take_along_axis(x, index, axis=1).squeeze(1)
