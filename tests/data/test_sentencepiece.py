"""BEiT-3's tokenizer against SentencePiece's and transformers' tokens."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxgen.data.sentencepiece import (
  END_TOKEN,
  PAD_TOKEN,
  START_TOKEN,
  UNKNOWN_TOKEN,
  beit3_tokenizer,
  mask_token,
  train_unigram_tokenizer,
)
from jaxgen.data.tokenizers import load_tokenizer

SMALL = Path(__file__).with_name("small.spm")
STORED = json.loads(Path(__file__).with_name("sentencepiece.json").read_text())
TEXTS = STORED["texts"]
CAPTIONS = TEXTS[:7]


def unpadded(tokens):
  return [token for token in tokens.tolist() if token != PAD_TOKEN]


def test_the_tokens_of_sentencepiece():
  """Its pieces are numbered one higher; its unknown one, 0, is 3."""
  tokenizer = beit3_tokenizer(SMALL, 64)
  for row, pieces in zip(tokenizer(TEXTS), STORED["pieces"], strict=True):
    tokens = [piece + 1 if piece else UNKNOWN_TOKEN for piece in pieces]
    assert unpadded(row) == [START_TOKEN, *tokens[:62], END_TOKEN]


def test_the_tokens_of_transformers():
  tokenizer = beit3_tokenizer(SMALL, 256)
  assert tokenizer.vocab_size == STORED["size"]
  assert mask_token(tokenizer) == STORED["mask"]
  for text, tokens in zip(TEXTS, STORED["transformers"], strict=True):
    if not text.startswith("\u2581"):  # transformers adds no second space
      assert unpadded(tokenizer(text)[0]) == tokens


def test_another_length():
  """Both ways what a tokenizer of that length gives; the first one stays."""
  first = beit3_tokenizer(SMALL, 16)
  for length in (7, 40):
    found = first.of_length(length)
    want = beit3_tokenizer(SMALL, length)
    np.testing.assert_array_equal(found(TEXTS), want(TEXTS))
  assert first(TEXTS).shape[1] == first.length == 16


def test_texts_come_back():
  tokenizer = beit3_tokenizer(SMALL, 64)
  assert tokenizer.decode(tokenizer(CAPTIONS)) == STORED["decoded"][:7]
  assert tokenizer.decode(tokenizer("two   cats\tand")) == ["two cats and"]
  marked = np.array([[START_TOKEN, mask_token(tokenizer), END_TOKEN, 1]])
  assert tokenizer.decode(marked) == [""]


def test_ones_own(tmp_path):
  own = train_unigram_tokenizer(CAPTIONS * 20, 90, 24)
  assert 30 < own.vocab_size <= 90
  tokens = own(CAPTIONS)
  assert tokens.shape == (7, 24)
  assert (tokens[:, 0] == START_TOKEN).all()
  assert own.end_token == END_TOKEN
  assert tokens.max() < mask_token(own)
  assert not (tokens == UNKNOWN_TOKEN).any()
  longer = train_unigram_tokenizer(iter(CAPTIONS * 20), 90, 64)
  assert longer.decode(longer(CAPTIONS)) == CAPTIONS
  assert UNKNOWN_TOKEN in own("日本")
  np.testing.assert_array_equal(own("a\n cat "), own("a cat"))
  # More pieces make shorter texts.
  few = train_unigram_tokenizer(CAPTIONS * 20, 50, 64)
  count = lambda tokenizer: (tokenizer(CAPTIONS) != PAD_TOKEN).sum()
  assert count(few) > count(longer)
  for tokenizer in (own, beit3_tokenizer(SMALL, 24)):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(loaded(TEXTS), tokenizer(TEXTS))


def field(number, value):
  return bytes([number << 3 | 2, len(value)]) + value


def piece(text, kind):
  return field(1, field(1, text.encode()) + bytes([3 << 3, kind]))


BEGIN = piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3)


def test_pieces_that_are_whole(tmp_path):
  """Other marks and words that a model was told of keep their numbers."""
  path = tmp_path / "model.spm"
  pieces = (("\u2581", 1), ("a", 1), ("<extra>", 3), ("ab", 4), ("b", 1))
  path.write_bytes(BEGIN + b"".join(piece(*p) for p in pieces))
  tokenizer = beit3_tokenizer(path, 8)
  assert unpadded(tokenizer("a<extra>")[0]) == [0, 4, 5, 6, 2]
  assert 7 in tokenizer("ab")
  assert tokenizer.vocab_size == 10


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "holds no pieces"),
    (SMALL.read_bytes()[:900], "ends too early"),
    (SMALL.read_bytes()[:-1], "not a whole"),
    (b"\xff" * 40, "not a whole"),
    (b"\x0b", "field of type 3"),
    (piece("a", 1), r"begin with the pieces <unk>, <s> and </s>, got \['a'\]"),
    (BEGIN + field(2, b"\x18\x02"), "unigram model .* of type 2"),
    (BEGIN + piece("<0x0A>", 6), r"of types \[2, 3, 6\]"),
  ],
)
def test_what_is_no_model(content, message, tmp_path):
  path = tmp_path / "model.spm"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    beit3_tokenizer(path)


def test_what_is_refused(tmp_path):
  with pytest.raises(ValueError, match="length >= 2, got 1"):
    beit3_tokenizer(SMALL, 16).of_length(1)
  with pytest.raises(FileNotFoundError, match=r"published at .*beit3\.spm"):
    beit3_tokenizer(tmp_path / "beit3.spm")
  with pytest.raises(ValueError, match="length >= 2, got 1"):
    beit3_tokenizer(SMALL, 1)
  with pytest.raises(ValueError, match=r"size >= 6, five marks .* got 5"):
    train_unigram_tokenizer(CAPTIONS, 5)
