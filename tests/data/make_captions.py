"""Writes captions.json: words and scores of COCO's caption evaluation.

python tests/data/make_captions.py PYCOCOEVALCAP

PYCOCOEVALCAP is the unpacked wheel of the PyPI package pycocoevalcap 1.2, whose
tokenizer needs Java.
"""

import importlib
import json
import random
import sys
from pathlib import Path

SENTENCES = """
A man riding a wave on top of a surfboard.
Two dogs, one black and one white, are playing with a frisbee!
It's a cat that isn't sleeping; it doesn't move.
The woman's hat and the boys' toys.
He can't see; they've gone, I'm here, we'll go, she'd stay, you're late.
A black-and-white photo of a T-shirt.
A sign that says "STOP" on it.
A sign reads 'do not enter'.
A group of people (about 10) standing in a room.
The clock reads 10:30 a.m. on the tower.
A store at 5th Ave. and Main St. in the U.S.
A Boeing 747-400 at the airport...
A half-eaten sandwich & fries for $5.99 each.
A cat / dog on a bed and/or couch.
He cannot stay, he is gonna go.
A 20,000 lb truck is driving 3.5 miles.
A laptop -- open -- on a desk - near a mouse.
Mr. Smith and Dr. Jones, Jr. are at St. Mary's church.
A pizza topped w/ cheese, 50% off #1.
A man is at the beach.He is surfing.
a woman in a dress;a man in a suit:both smiling
A person on a motor bike  with   two spaces .
A kid's bike, the '90s car, rock 'n' roll.
The caf\u00e9's menu \u2014 na\u00efve r\u00e9sum\u00e9 \u2013 dash.
A bus [number 12] {red} on the road
What is this? I don't know!!
o'clock ma'am y'all 'tis 'twas
the 1990's and 1980s and 7's
A 12-year-old girl and a 3-D movie
two cats*sleeping together
it 's tokenized already , is n't it ?
\u201ccurly quotes\u201d and \u2018single\u2019 ones
The men\u2019s room isn\u2019t open
A photo of John F. Kennedy Jr.
no. 5 train at 6 p.m., and no. It is 5:00pm
couldn't've shouldn't they'd've
A 10' surf board and 6" sub
#hashtag and @user
A phone number 555-1234 and 1-800-555-1234
a cat,a dog,and a bird.
A .5 inch
an S.U.V. and a B&B
1/2 of a pizza, w/flowers
""".strip().splitlines()

PARTS = (
  ("A", "The", "Two", "Some", "One"),
  ("", "small", "red", "old-fashioned", "man's", "very big"),
  ("dog", "cat", "bus", "pizza", "woman", "boy"),
  ("sits", "is running", "isn't eating", "stands", "can't be seen"),
  ("on", "next to", "under", "in front of"),
  ("a table", "the street", "a (wooden) chair", "another one", "the U.S. flag"),
  (".", "!", "", ", at night.", "..."),
)


def sentence(rng: random.Random, like: str = "") -> str:
  """Random words; or most of those of another sentence."""
  if like and rng.random() < 0.7:
    words = [word for word in like.split() if rng.random() < 0.9]
    return " ".join(words)
  words = [rng.choice(part) for part in PARTS]
  return " ".join(word for word in words[:-1] if word) + words[-1]


def main() -> None:
  sys.path.insert(0, sys.argv[1])
  part = lambda name: importlib.import_module(f"pycocoevalcap.{name}")
  tokenize = part("tokenizer.ptbtokenizer").PTBTokenizer().tokenize
  as_entries = lambda texts: [{"caption": text} for text in texts]
  words = tokenize({0: as_entries(SENTENCES)})[0]
  rng = random.Random(0)
  images = []
  for _ in range(30):
    first = sentence(rng)
    others = [sentence(rng, first) for _ in range(rng.randint(1, 4))]
    images.append({"caption": sentence(rng, first), "references": [*others]})
  images[3]["caption"] = "bus"
  images[4]["caption"] = images[4]["references"][0]
  found = tokenize(
    {i: as_entries([x["caption"]]) for i, x in enumerate(images)}
  )
  people = tokenize(
    {i: as_entries(x["references"]) for i, x in enumerate(images)}
  )
  scores: dict[str, object] = {}
  for name, kind in (
    ("BLEU", "bleu.bleu.Bleu"),
    ("CIDEr-D", "cider.cider.Cider"),
    ("ROUGE-L", "rouge.rouge.Rouge"),
  ):
    module, cls = kind.rsplit(".", 1)
    scorer = getattr(part(module), cls)()
    value, each = scorer.compute_score(people, found)
    scores[name] = value if name == "BLEU" else float(value)
    if name != "BLEU":
      scores[f"{name} of each"] = [float(x) for x in each]
  content = {
    "sentences": [
      [text, line.split()] for text, line in zip(SENTENCES, words, strict=True)
    ],
    "images": images,
    "scores": scores,
  }
  path = Path(__file__).with_name("captions.json")
  path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
  main()
