"""Caption scores against COCO's evaluation, stored, and closed forms."""

import json
import math
from pathlib import Path

import pytest

from jaxgen.metrics import caption_scores
from jaxgen.metrics.captions import bleu, caption_words, cider_d, rouge_l

STORED = json.loads(
  (Path(__file__).parents[1] / "data/captions.json").read_text()
)
WORDS = [caption_words(image["caption"]) for image in STORED["images"]]
OTHERS = [
  [caption_words(text) for text in image["references"]]
  for image in STORED["images"]
]


def test_words_are_those_of_stanfords_tokenizer():
  for text, words in STORED["sentences"]:
    assert list(caption_words(text)) == words


def test_scores_are_those_of_cocos_evaluation():
  want = STORED["scores"]
  assert bleu(WORDS, OTHERS) == pytest.approx(want["BLEU"], rel=1e-6)
  assert rouge_l(WORDS, OTHERS) == pytest.approx(want["ROUGE-L"], rel=1e-9)
  assert cider_d(WORDS, OTHERS) == pytest.approx(want["CIDEr-D"], rel=1e-9)
  for i, score in enumerate(want["ROUGE-L of each"]):
    found = rouge_l(WORDS[i : i + 1], OTHERS[i : i + 1])
    assert found == pytest.approx(score, rel=1e-9)


def test_captions_like_their_references():
  """BLEU and ROUGE are 1; CIDEr-D is 10, as long as 4-grams are there."""
  captions = ["a cat sits on a mat.", "two dogs run in the park"]
  found = caption_scores(captions, [[text] for text in captions])
  assert found.pop("CIDEr-D") == pytest.approx(10)
  assert found == pytest.approx(dict.fromkeys(found, 1.0))
  # Three words have no 4-grams: that quarter is 0.
  captions = ["a black cat", "two small dogs"]
  found = caption_scores(captions, [[text] for text in captions])
  assert found["CIDEr-D"] == pytest.approx(7.5)
  assert found["BLEU-3"] == 1
  assert found["BLEU-4"] == 0


def test_clipping_and_brevity():
  """Papineni et al. 2002's example: "the" seven times has precision 2 / 7."""
  references = [["The cat is on the mat", "There is a cat on the mat"]]
  found = caption_scores(["the the the the the the the"], references)
  assert found["BLEU-1"] == pytest.approx(2 / 7)
  found = caption_scores(["the cat"], [["the cat is on"]])
  assert found["BLEU-2"] == pytest.approx(math.exp(-1))
  found = caption_scores(["", "a cat"], [["a dog"], ["a cat"]])
  assert found["BLEU-1"] == pytest.approx(math.exp(-1))
  assert found["ROUGE-L"] == 0.5
  assert caption_scores(["x"], [["y"]])["BLEU-1"] == 0


def test_mistakes_are_one_sentence():
  with pytest.raises(ValueError, match="as many images, got 1 and 2"):
    caption_scores(["a"], [["a"], ["b"]])
  with pytest.raises(ValueError, match=r"of image 1, got \[\]"):
    caption_scores(["a", "b"], [["a"], []])
