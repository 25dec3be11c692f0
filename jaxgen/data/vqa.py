"""VQAv2 in a folder as it is published, and its list of answers.

Goyal et al. 2017, "Making the V in VQA Matter"; the list and the split are
those of BEiT-3's released code. The records here are what `jaxgen.data.load`
decodes for the name "vqav2:ROOT".
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.described import Described, check, listed
from jaxgen.data.optional import published

_SOURCE = "https://visualqa.org/download.html"
_LEAST = 9  # questions that an answer of the list is the commonest of
_HELD_OUT = 1000  # images of val2014 to judge by
_QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
_ANNOTATIONS = "v2_mscoco_{}_annotations.json"

# What VQA's own evaluation does to answers (Antol et al. 2015, section 3).
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
  **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3"},
  **{"four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8"},
  **{"nine": "9", "ten": "10"},
}
_CONTRACTED = """
  ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
  hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd
  it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
  not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
  shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
  someone'll someone's something'd something'd've something'll that's there'd
  there'd've there're there's they'd they'd've they'll they're they've 'twas
  wasn't we'd've we've weren't what'll what're what's what've when's where'd
  where's where've who'd who'd've who'll who's who've why'll why're why's won't
  would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
  you're you've
"""


def _without_one_apostrophe() -> dict[str, str]:
  """A contraction with one apostrophe lacking -> the contraction."""
  found = {"somebody'd": "somebodyd"}  # the other way round, as published
  for word in _CONTRACTED.split():
    for at in re.finditer("'", word):
      found[word[: at.start()] + word[at.end() :]] = word
  return found


_CONTRACTIONS = _without_one_apostrophe()


def normalized_answer(answer: str) -> str:
  """An answer as VQA's evaluation writes it.

  Lower case; no articles, digits for "none" to "ten", apostrophes where
  contractions lack them. A punctuation mark becomes a space, or nothing where
  one of its kind is next to a space or any comma stands between digits; periods
  go unless a digit follows.
  """
  text = answer
  grouped = re.search(r"\d,\d", answer) is not None
  for mark in _PUNCTUATION:
    apart = f"{mark} " in answer or f" {mark}" in answer
    text = text.replace(mark, "" if apart or grouped else " ")
  text = re.sub(r"\.(?!\d)", "", text, count=32)  # 32 as published
  words = [_NUMBERS.get(word, word) for word in text.lower().split()]
  words = [word for word in words if word not in ("a", "an", "the")]
  return " ".join(_CONTRACTIONS.get(word, word) for word in words)


def answer_list(
  commonest: Iterable[str], least: int = _LEAST
) -> tuple[str, ...]:
  """The answers that a network chooses from, 3,129 of VQAv2.

  Args:
    commonest: each question's commonest answer, those of the training set
      first; the list keeps their order.
    least: of how many questions an answer must be it.
  """
  counts = Counter(map(normalized_answer, commonest))
  return tuple(answer for answer, n in counts.items() if n >= least)


def vqav2(root: str | os.PathLike[str], split: str) -> Described:
  """Questions about COCO's images, with what ten people answered.

  ROOT/vqa has the published files of questions and annotations; the images are
  in ROOT/train2014, ROOT/val2014 and ROOT/test2015. An example has `image`,
  `question`, `question_id`, and of the answers in the list, which is
  `label_names`, `labels` and `counts`, how many people gave them.

  Args:
    root: the folder.
    split: "train", all of train2014 and most of val2014, without the questions
      that have no answer in the list; "val", the questions of 1,000 images of
      val2014, drawn once and for all, where the released code draws others in
      every preparation; "test-dev" or "test", without answers.

  Raises:
    FileNotFoundError: there is no such file; says where it is published.
    ValueError: it is damaged, holds something else, or there is no such split.
  """
  if split not in ("train", "val", "test-dev", "test"):
    raise ValueError(
      f"VQAv2 has no split {split!r}; it has train, val, test-dev, test"
    )
  top = Path(root).expanduser()
  notes = {year: _annotations(top, year) for year in ("train2014", "val2014")}
  names = answer_list(
    note["multiple_choice_answer"] for part in notes.values() for note in part
  )
  if split.startswith("test"):
    year = "test-dev2015" if split == "test-dev" else "test2015"
    entries = list(_questions(top, year, "test2015").values())
    return Described(top, entries, label_names=names)
  number = {name: i for i, name in enumerate(names)}
  held_out = _held_out({note["image_id"] for note in notes["val2014"]})
  entries = []
  for year, part in notes.items():
    questions = _questions(top, year, year)
    for note in part:
      judged = year == "val2014" and note["image_id"] in held_out
      counts = _counts(note["answers"], number)
      if judged != (split == "val") or not (judged or counts):
        continue
      question = questions.get(note["question_id"])
      if question is None:
        raise ValueError(
          f"{_path(top, _QUESTIONS, year)} lacks question "
          f"{note['question_id']} of the annotations"
        )
      labels = {"labels": list(counts), "counts": list(counts.values())}
      entries.append(question | labels)
  return Described(top, entries, label_names=names)


def _path(top: Path, name: str, year: str) -> Path:
  return top / "vqa" / name.format(year)


def _annotations(top: Path, year: str) -> list[dict[str, Any]]:
  path = published(_path(top, _ANNOTATIONS, year), _SOURCE)
  notes = listed(path, "annotations")
  for note in notes:
    check(
      path,
      note,
      question_id=int,
      image_id=int,
      multiple_choice_answer=str,
      answers=list,
    )
    for answer in note["answers"]:
      check(path, answer, answer=str)
  return notes


def _questions(top: Path, year: str, folder: str) -> dict[int, dict[str, Any]]:
  """What is known of a question, by its number."""
  path = published(_path(top, _QUESTIONS, year), _SOURCE)
  found = {}
  for note in listed(path, "questions"):
    check(path, note, question_id=int, image_id=int, question=str)
    found[note["question_id"]] = {
      "image": f"{folder}/COCO_{folder}_{note['image_id']:012d}.jpg",
      "question": note["question"],
      "question_id": note["question_id"],
    }
  return found


def _counts(answers: list[dict[str, Any]], number: dict[str, int]) -> Counter:
  given = (number.get(answer["answer"]) for answer in answers)
  return Counter(label for label in given if label is not None)


def _held_out(images: set[int]) -> set[int]:
  order = np.random.default_rng(0).permutation(sorted(images))
  return set(order[:_HELD_OUT].tolist())
