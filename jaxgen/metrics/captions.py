"""Scores of captions against people's: BLEU, ROUGE-L and CIDEr-D.

As COCO's evaluation has them (Chen et al. 2015, "Microsoft COCO Captions: Data
Collection and Evaluation Server"), without its METEOR and SPICE, which are
programs in Java with data of their own.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

Words = tuple[str, ...]
# Of each n the n-grams' weights, and how many pairs of words there are.
Vectors = tuple[list[dict[Words, float]], int]

# The Penn Treebank's rules as Stanford's tokenizer 3.4.1 has them, which COCO's
# evaluation runs, as far as captions need them.
_ABBREVIATIONS = (
  "mr|mrs|ms|dr|prof|rev|gen|col|sgt|capt|lt|gov|sen|rep|pres|st|ave|blvd|rd|"
  "dept|univ|jr|sr|bros|co|corp|inc|ltd|etc|vs|ft|sq|mt|tel|ext|jan|feb|mar|"
  "apr|jun|jul|aug|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|alex|wm|"
  "esq|hon|messrs|fla|va"
)
_TOKEN = re.compile(
  rf"""
  (?:[^\W\d_]\.){{2,}}[^\W\d_]?(?!\w)      # u.s., a.m
  | ph\.d\.
  | (?:{_ABBREVIATIONS})\.(?!\w)
  | \bno\.(?=\ *\d)
  | (?<![\w'])[^\W\d_]\.(?!\w)             # an initial
  | \b(?:o'clock|ma'am)\b
  | '\d0s\b
  | '(?=t(?:is|was)\b)t                    # 't is
  | \by'(?=all\b) | (?<!\w)'n'(?!\w)
  | n't\b | '(?:s|m|d|ll|re|ve)\b          # clitics
  | \b(?:can(?=not\b)|gon(?=na\b)|wan(?=na\b)|got(?=ta\b)|lem(?=me\b)
      |gim(?=me\b))
  | \w+(?=n't\b)
  | \d+:\d\d(?=[ap]m\b)
  | \.\d+
  | [#@][^\W\d_]\w*
  | \w+(?:[-./&]\w+(?!'t\b)|(?<=\d)[,:](?=\d)\w+)*
  | -- | \.\.\. | [!?]{{2,}} | [^\s\w]
  """,
  re.VERBOSE,
)
_LEFT_OUT = frozenset("'\"`.?!,:;-") | {"--", "..."}
_STRAIGHT = str.maketrans(
  {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
  | {"\u2013": "--", "\u2014": "--", "\u2026": "..."}
)
_BRACKETS = {
  **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-"},
  **{"{": "-lcb-", "}": "-rcb-"},
}
_ORDERS = (1, 2, 3, 4)  # of n-grams
_SIGMA = 6.0  # of CIDEr-D's penalty, in words
_BETA = 1.2  # weight of recall in ROUGE-L


def caption_words(text: str) -> Words:
  """The words of a caption, in lower case, without punctuation.

  By the Penn Treebank's rules: "isn't" is "is" and "n't", "man's" is "man" and
  "'s"; words with hyphens, and numbers, are one; abbreviations keep their
  periods. Of punctuation quotes, periods, commas, colons, semicolons, dashes,
  question and exclamation marks are left out; brackets stay, as "-lrb-" and
  the like, and so do several question or exclamation marks in a row. Of rare
  things, such as addresses and smileys, other words may result than from
  Stanford's program.
  """
  tokens = _TOKEN.findall(text.lower().translate(_STRAIGHT))
  kept = (token for token in tokens if token not in _LEFT_OUT)
  return tuple(_BRACKETS.get(token, token) for token in kept)


def caption_scores(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
  """BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D of captions.

  Times 100 they are what papers print, CIDEr-D being called CIDEr there.

  Args:
    captions: one of each image.
    references: people's captions of each image, at least one.

  Raises:
    ValueError: there are no images, or an image has no references.
  """
  if len(captions) != len(references) or not captions:
    raise ValueError(
      "caption_scores needs captions and references of as many images, got "
      f"{len(captions)} and {len(references)}"
    )
  for i, texts in enumerate(references):
    if not texts or isinstance(texts, str):
      raise ValueError(
        f"caption_scores needs a list of references of image {i}, got {texts!r}"
      )
  words = [caption_words(text) for text in captions]
  others = [[caption_words(text) for text in texts] for texts in references]
  of_orders = zip(_ORDERS, bleu(words, others), strict=True)
  found = {f"BLEU-{n}": score for n, score in of_orders}
  found["ROUGE-L"] = rouge_l(words, others)
  found["CIDEr-D"] = cider_d(words, others)
  return found


def bleu(
  captions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> tuple[float, ...]:
  """BLEU-1 to BLEU-4 of all captions together (Papineni et al. 2002).

  min(1, exp(1 - r / c)) (p_1 ... p_n)^(1/n): p_k is the share of k-grams that
  a reference of the same image has too, each as often as in the reference that
  has it most often; c counts the captions' words, r those of the references of
  the nearest length, the shorter of two as near.

  Args:
    captions: words of one caption of each image.
    references: words of people's captions of each image.
  """
  right, all_of = np.zeros(4), np.zeros(4)
  length, wanted = 0, 0
  for caption, others in zip(captions, references, strict=True):
    length += len(caption)
    wanted += min((abs(len(o) - len(caption)), len(o)) for o in others)[1]
    most: Counter[Words] = Counter()
    for other in others:
      most |= _ngrams(other)
    for ngram, count in (_ngrams(caption) & most).items():
      right[len(ngram) - 1] += count
    all_of += [max(0, len(caption) + 1 - n) for n in _ORDERS]
  if not right[0]:
    return (0.0,) * 4
  precision = np.divide(right, all_of, out=np.zeros(4), where=all_of > 0)
  penalty = math.exp(min(0.0, 1 - wanted / length))
  products = np.cumprod(precision)
  return tuple(
    penalty * p ** (1 / n) for n, p in zip(_ORDERS, products, strict=True)
  )


def rouge_l(
  captions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> float:
  """ROUGE-L (Lin 2004), by mean over captions, as COCO's evaluation has it.

  (1 + b^2) P R / (R + b^2 P) with b = 1.2: the longest common subsequence over
  the caption's length, P, and over the reference's, R, each the largest of all
  references.
  """
  scores = []
  for caption, others in zip(captions, references, strict=True):
    common = [_common(caption, other) for other in others]
    precision = max(n / max(1, len(caption)) for n in common)
    recall = max(
      n / max(1, len(o)) for n, o in zip(common, others, strict=True)
    )
    top = (1 + _BETA**2) * precision * recall
    scores.append(top / (recall + _BETA**2 * precision) if top else 0.0)
  return float(np.mean(scores))


def cider_d(
  captions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> float:
  """CIDEr-D (Vedantam et al. 2015, section 5), by mean over captions.

  Ten times the mean over n = 1, ..., 4 and over references of

    exp(-(l_c - l_r)^2 / 2 s^2) min(g_c, g_r) . g_r / (|g_c| |g_r|), s = 6,

  where g holds each n-gram's count in a text, times log of all images over
  those of which a reference has it. The lengths l count a text's pairs of
  words, as COCO's evaluation does: words, less one. n-grams that all images
  have weigh nothing; so of a single image the score is 0.

  Args:
    captions: words of one caption of each image.
    references: words of people's captions of each image.
  """
  counted = [[_ngrams(other) for other in others] for others in references]
  images: Counter[Words] = Counter()
  for others in counted:
    images.update({ngram for other in others for ngram in other})
  whole = math.log(len(counted))
  weight = lambda ngram: whole - math.log(max(1, images[ngram]))
  scores = []
  for caption, others in zip(captions, counted, strict=True):
    mine = _weighted(_ngrams(caption), weight)
    each = [_similarity(mine, _weighted(other, weight)) for other in others]
    scores.append(10 * float(np.mean(each)))
  return float(np.mean(scores))


def _similarity(caption: Vectors, reference: Vectors) -> float:
  """CIDEr-D's, by mean over n."""
  total = 0.0
  for a, b in zip(caption[0], reference[0], strict=True):
    shared = ((x, b[ngram]) for ngram, x in a.items() if ngram in b)
    product = sum(min(x, y) * y for x, y in shared)
    norm = math.sqrt(_square(a) * _square(b))
    total += product / norm if norm else 0.0
  far = caption[1] - reference[1]
  return total / len(_ORDERS) * math.exp(-(far**2) / (2 * _SIGMA**2))


def _square(vector: dict[Words, float]) -> float:
  return sum(x * x for x in vector.values())


def _weighted(
  counts: Counter[Words], weight: Callable[[Words], float]
) -> Vectors:
  """A text's vectors, one for each n, and its pairs of words."""
  vectors = [
    {g: c * weight(g) for g, c in counts.items() if len(g) == n}
    for n in _ORDERS
  ]
  return vectors, sum(c for g, c in counts.items() if len(g) == 2)


def _ngrams(words: Words) -> Counter[Words]:
  return Counter(
    words[i : i + n] for n in _ORDERS for i in range(len(words) + 1 - n)
  )


def _common(a: Words, b: Words) -> int:
  """The length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for x in a:
    before, row = row, [0]
    for j, y in enumerate(b):
      same = before[j] + 1
      row.append(same if x == y else max(before[j + 1], row[j]))
  return row[-1]
