"""BEiT-3's text tokenizer: a published SentencePiece model, or one's own.

Kudo 2018, "Subword Regularization": a text is cut into the pieces of a
vocabulary whose log-probabilities have the largest sum. Tokens are numbered as
XLM-RoBERTa's: start 0, padding 1, end 2, unknown 3, then the pieces, and the
mask token last. Runs on the package `tokenizers`, as `jaxgen.data.tokenizers`.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxgen.data.optional import optional, published
from jaxgen.data.tokenizers import (
  TextTokenizer,
  framed,
  without_surrogates,
)

START, PAD, END, UNKNOWN, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
START_TOKEN, PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN = 0, 1, 2, 3

_SOURCE = "https://github.com/addf400/files/releases/download/beit3/beit3.spm"
_SPACE = "\u2581"  # stands for a space in pieces
# sentencepiece_model.proto: fields, types of pieces and of models.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4
_UNIGRAM = 1


def mask_token(tokenizer: TextTokenizer) -> int:
  """The token that stands for a hidden word, the last one."""
  return tokenizer.vocab_size - 1


def beit3_tokenizer(path: str | Path, length: int = 64) -> TextTokenizer:
  """The tokenizer of a SentencePiece model, as BEiT-3 numbers its tokens.

  The published beit3.spm gives 64,002 tokens; the networks have 64,010.

  Args:
    path: of the model, a unigram one.
    length: of every text, start and end included: 64, and 32 for captions.

  Raises:
    FileNotFoundError: if there is no such file; says where it is published.
    ValueError: if it is no such model, or length < 2.
  """
  path = published(path, _SOURCE)
  try:
    pieces, trainer, normalizer = _read(path.read_bytes())
  except (ValueError, LookupError, struct.error) as error:
    raise ValueError(
      f"{path} is not a whole SentencePiece model: {error}."
    ) from error
  kinds = [kind for _, _, kind in pieces]
  if kinds[:3] != [_UNKNOWN, _CONTROL, _CONTROL]:
    raise ValueError(
      f"{path} must begin with the pieces <unk>, <s> and </s>, got "
      f"{[piece for piece, _, _ in pieces[:3]]}."
    )
  other = set(kinds[3:]) - {_NORMAL, _CONTROL, _USER}
  if trainer.get(3, _UNIGRAM) != _UNIGRAM or other:
    raise ValueError(
      f"{path} must be a unigram model of whole pieces, got a model of type "
      f"{trainer.get(3, _UNIGRAM)} with pieces of types {sorted(set(kinds))}."
    )
  rules = _rules(
    [(piece, score) for piece, score, _ in pieces[3:]],
    bytes(normalizer.get(2, b"")),
    prefix=bool(normalizer.get(3, 1)),
    squeeze=bool(normalizer.get(4, 1)),
  )
  whole = [piece for piece, _, kind in pieces[3:] if kind == _USER]
  if whole:
    library = optional("tokenizers", "text")
    rules.add_tokens([library.AddedToken(p, normalized=False) for p in whole])
  control = [piece for piece, _, kind in pieces[3:] if kind == _CONTROL]
  return _marked(rules, control, length)


def train_unigram_tokenizer(
  captions: Iterable[str], size: int, length: int = 64
) -> TextTokenizer:
  """A tokenizer like BEiT-3's, learnt from captions without any download.

  Texts are normalised by Unicode's NFKC, white space is collapsed; upper and
  lower case differ.

  Args:
    captions: the texts to learn from.
    size: of the vocabulary at most, the five marks included. Letters of the
      captions always have a token.
    length: of every text, start and end included.

  Raises:
    ValueError: if size < 6 or length < 2.
  """
  library = optional("tokenizers", "text")
  if size < 6:
    raise ValueError(
      f"train_unigram_tokenizer needs size >= 6, five marks and a piece, got "
      f"{size}."
    )
  rules = _rules([], b"")
  trainer = library.trainers.UnigramTrainer(
    vocab_size=size - 4,  # its own unknown token is one of the five marks
    special_tokens=[UNKNOWN],
    unk_token=UNKNOWN,
    show_progress=False,
  )
  texts = (without_surrogates(caption) for caption in captions)
  # Words apart, so that no piece reaches across a space.
  rules.pre_tokenizer = library.pre_tokenizers.Metaspace(
    _SPACE, prepend_scheme="never", split=True
  )
  rules.train_from_iterator(texts, trainer)
  learnt = json.loads(rules.to_str())["model"]["vocab"]
  pieces = [(piece, score) for piece, score in learnt if piece != UNKNOWN]
  return _marked(_rules(pieces, b""), (), length)


def _rules(
  pieces: list[tuple[str, float]],
  characters: bytes,
  prefix: bool = True,
  squeeze: bool = True,
) -> Any:
  """The library's tokenizer of pieces, the marks' numbers around them.

  Args:
    pieces: and their log-probabilities.
    characters: SentencePiece's compiled map of characters; empty for NFKC.
    prefix: every text begins with a space.
    squeeze: spaces at the ends are cut, others collapsed.
  """
  library = optional("tokenizers", "text")
  marks = [(mark, 0.0) for mark in (START, PAD, END, UNKNOWN)]
  vocabulary = [*marks, *pieces, (MASK, 0.0)]
  rules = library.Tokenizer(
    library.models.Unigram(vocabulary, UNKNOWN_TOKEN, byte_fallback=False)
  )
  normalizers, Regex = library.normalizers, library.Regex
  steps = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s"), " ")]
  if characters:
    steps = [normalizers.Precompiled(characters)]
  if squeeze:
    steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
    steps.append(normalizers.Replace(Regex(" {2,}"), " "))
  steps.append(normalizers.Replace(" ", _SPACE))
  if prefix:
    steps.append(normalizers.Prepend(_SPACE))
  rules.normalizer = normalizers.Sequence(steps)
  decoders = library.decoders
  back = [decoders.Replace(_SPACE, " "), decoders.Fuse()]
  rules.decoder = decoders.Sequence(
    [*back, decoders.Strip(" ", 1, 0)] if prefix else back
  )
  return rules


def _marked(rules: Any, others: Iterable[str], length: int) -> TextTokenizer:
  library = optional("tokenizers", "text")
  marks = (START, END, PAD)
  return framed(library, rules, marks, (UNKNOWN, MASK, *others), length)


def _read(
  data: bytes,
) -> tuple[list[tuple[str, float, int]], dict[int, Any], dict[int, Any]]:
  """Pieces with log-probability and type; the trainer's fields; the rules'."""
  pieces = []
  parts: dict[int, dict[int, Any]] = {_TRAINER: {}, _NORMALIZER: {}}
  for number, value in _fields(data):
    if number == _PIECES:
      piece = dict(_fields(value))
      (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
      pieces.append((str(piece[1], "utf-8"), score, piece.get(3, _NORMAL)))
    elif number in parts:
      parts[number] = dict(_fields(value))
  if not pieces:
    raise ValueError("it holds no pieces")
  return pieces, parts[_TRAINER], parts[_NORMALIZER]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
  """The fields of a message of protocol buffers: numbers, integers or bytes."""
  at = 0

  def integer() -> int:
    nonlocal at
    value, shift = 0, 0
    while True:
      byte = data[at]
      at += 1
      value |= (byte & 0x7F) << shift
      shift += 7
      if byte < 0x80:
        return value
      if shift > 63:
        raise ValueError("a number of it does not end")

  while at < len(data):
    key = integer()
    kind = key & 7
    if kind == 0:
      yield key >> 3, integer()
      continue
    if kind not in (1, 2, 5):
      raise ValueError(f"it has a field of type {kind}")
    size = integer() if kind == 2 else {1: 8, 5: 4}[kind]
    if at + size > len(data):
      raise ValueError("it ends too early")
    yield key >> 3, data[at : at + size]
    at += size
