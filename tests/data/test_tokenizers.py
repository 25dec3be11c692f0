"""Tokens written out by hand; tests/parity compares with transformers."""

import json
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from small_vocabularies import (
  BERT_MARKS,
  MERGES,
  PIECES,
  write_bert_file,
  write_clip_files,
)

from jaxgen.data.tokenizers import (
  TextTokenizer,
  bert_tokenizer,
  clip_tokenizer,
  load_tokenizer,
  train_word_tokenizer,
)

CAPTIONS = ["grinning cat", "grinning face", "cat with tears of joy"] * 5
START, END = 512 + len(MERGES), 513 + len(MERGES)


def merged(pair):
  return 512 + MERGES.index(pair)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  return clip_tokenizer(*write_clip_files(tmp_path_factory.mktemp("clip")), 8)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
  return bert_tokenizer(write_bert_file(tmp_path_factory.mktemp("bert")), 8)


@pytest.fixture(scope="module")
def own():
  return train_word_tokenizer(CAPTIONS, 300, 8)


def test_clip(clip):
  # "!" is byte 33, the first letter; "</w>" ones come 256 later.
  the, cat = merged("th e</w>"), merged("ca t</w>")
  got = clip(["The  CAT!", "the 12"])
  assert got.dtype == np.int32
  ones = [START, the, ord("1") - 33 + 256, ord("2") - 33 + 256]
  assert got.tolist() == [
    [START, the, cat, 256, *[END] * 4],
    [*ones, *[END] * 4],
  ]
  assert clip("the " * 100).tolist() == [[START, *[the] * 6, END]]
  assert clip("").tolist() == [[START, *[END] * 7]]
  assert (clip.length, clip.vocab_size, clip.end_token) == (8, END + 1, END)
  np.testing.assert_array_equal(clip("Café"), clip("CAFE\u0301"))


def test_clip_decodes(clip):
  assert clip.decode(clip(["The Cat's é", "🙂", ""])) == [
    "the cat 's é",
    "🙂",
    "",
  ]


def test_bert(bert):
  number = {t: i for i, t in enumerate((*BERT_MARKS, *PIECES))}
  words = ["[CLS]", "the", "cat", "##s", ",", "cafe", "[UNK]", "[SEP]"]
  assert bert("The CATs, Café zebra")[0].tolist() == [number[w] for w in words]
  assert bert("")[0].tolist() == [number["[CLS]"], number["[SEP]"], *[0] * 6]
  assert bert("the " * 100)[0, -1] == number["[SEP]"]
  assert bert.decode(bert("the cats")) == ["the cats"]


def test_own_tokenizer_learns_the_captions(own, tmp_path):
  assert own.vocab_size <= 300
  assert own("grinning cat").tolist()[0][3:] == [1] * 5  # two whole words
  assert own("grinning cat")[0, 0] == 0
  assert own.end_token == 1
  np.testing.assert_array_equal(own("  GRINNING\tcat "), own("grinning cat"))
  assert own.decode(own(CAPTIONS[:2])) == CAPTIONS[:2]
  again = train_word_tokenizer(iter(CAPTIONS), 300, 8)
  assert again.rules.to_str() == own.rules.to_str()

  own.save(tmp_path / "tokenizer.json")
  loaded = load_tokenizer(tmp_path / "tokenizer.json")
  np.testing.assert_array_equal(loaded(CAPTIONS), own(CAPTIONS))
  assert loaded.length == 8


def test_published_tokenizers_are_saved_too(clip, bert, tmp_path):
  for tokenizer in (clip, bert):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(loaded(CAPTIONS), tokenizer(CAPTIONS))


texts = st.lists(
  st.text(st.characters(), max_size=30)
  | st.text("'s \t\n<|>/w\u0301\ud800é🙂日1²", max_size=30)
)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(texts)
def test_any_text_becomes_tokens_of_one_length(clip, bert, own, texts):
  for tokenizer, start in ((clip, START), (bert, 2), (own, 0)):
    tokens = tokenizer(texts)
    assert tokens.shape == (len(texts), 8)
    assert (tokens[:, 0] == start).all()
    assert (tokens == tokenizer.end_token).any(1).all()
    assert tokens.min(initial=0) >= 0
    assert tokens.max(initial=0) < tokenizer.vocab_size
    assert len(tokenizer.decode(tokens)) == len(texts)


@pytest.fixture(scope="module")
def long():
  return train_word_tokenizer(CAPTIONS, 300, 200)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_own_tokenizer_loses_nothing_of_normal_text(long, text):
  text = " ".join(text.lower().split())
  hypothesis.assume(not any(mark in text for mark in ("<|start", "<|end")))
  want = long.rules.normalizer.normalize_str(text)
  assert long.decode(long(text)) == [want.strip()]


def test_bad_input_is_one_sentence(tmp_path, clip):
  vocab, merges = write_clip_files(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"published at https://hugging"):
    clip_tokenizer(vocab, tmp_path / "no.txt")
  with pytest.raises(FileNotFoundError, match=r"no\.txt is published at https"):
    bert_tokenizer(tmp_path / "no.txt")
  with pytest.raises(FileNotFoundError, match=r"TextTokenizer\.save writes"):
    load_tokenizer(tmp_path / "no.json")
  with pytest.raises(ValueError, match="needs length >= 2, got 1"):
    clip_tokenizer(vocab, merges, 1)
  with pytest.raises(ValueError, match=r"size >= 258, .* got 257"):
    train_word_tokenizer(CAPTIONS, 257)
  with pytest.raises(TypeError, match="must be a string, got 5"):
    clip(["a", 5])
  with pytest.raises(ValueError, match=r"lacks the tokens \[CLS\], \[SEP\]"):
    bert_tokenizer(merges)
  with pytest.raises(ValueError, match=r"Cannot read .*vocab\.json"):
    load_tokenizer(vocab)
  with pytest.raises(ValueError, match=r"merges\.txt is not JSON"):
    clip_tokenizer(merges, merges)
  merges.write_text("#version: 0.2\nz zz\n")
  with pytest.raises(ValueError, match=r"Cannot read .*merges\.txt: "):
    clip_tokenizer(vocab, merges)
  vocab.write_text('{"a": 0}')
  with pytest.raises(ValueError, match=r"lacks the tokens <\|startoftext"):
    clip_tokenizer(vocab, merges)
  vocab.write_bytes(b"\xff\xfe\x00")
  with pytest.raises(ValueError, match="is not text in UTF-8"):
    bert_tokenizer(vocab)


def test_the_package_is_named_where_it_is_missing(monkeypatch):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ImportError, match=r"pip install 'jaxgen\[text\]'"):
    train_word_tokenizer(CAPTIONS, 300)


def test_a_tokenizer_without_a_length(tmp_path, own):
  own.save(tmp_path / "tokenizer.json")
  rules = load_tokenizer(tmp_path / "tokenizer.json").rules
  rules.no_padding()
  TextTokenizer(rules).save(tmp_path / "tokenizer.json")
  with pytest.raises(ValueError, match="does not cut and pad texts to one len"):
    load_tokenizer(tmp_path / "tokenizer.json")


def test_a_text_that_appears_twice_is_refused(tmp_path, own):
  """Of 25 times the library makes more encodings than memory holds."""
  path = tmp_path / "tokenizer.json"
  own.save(path)
  tree = json.loads(path.read_text())
  template = tree["post_processor"]
  template["single"] = template["single"] + template["single"][1:2]
  for processor in (template, {"type": "Sequence", "processors": [template]}):
    path.write_text(json.dumps(tree | {"post_processor": processor}))
    with pytest.raises(ValueError, match="puts a text 2 times into its tokens"):
      load_tokenizer(path)


def test_numbers_of_tokens_that_int32_cannot_hold_are_refused(tmp_path, own):
  path = tmp_path / "tokenizer.json"
  own.save(path)
  tree = json.loads(path.read_text())
  tree["model"]["vocab"]["a"] = 2**31
  path.write_text(json.dumps(tree))
  with pytest.raises(ValueError, match=r"numbers its tokens beyond 2\^31"):
    load_tokenizer(path)
