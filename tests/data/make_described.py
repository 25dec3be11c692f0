"""Writes described.json: what BEiT-3's released code reads of published files.

python tests/data/make_described.py UNILM_CHECKOUT
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

ANSWERS = (
  """
Yes|no.|THE Cat|a dog, a cat|10,000|3.5|two|None|dont|couldn'tve|isnt|it's
black and white|black/white|black-and-white|10:30|10 : 30|5 - 7|U.S.A.|u.s.
what?|"stop"|(left)|left ( side )|1,2 and 3|no. 5|$5|w/ cheese|a|the|  an apple
somebody'd|somebodyd've|Im|id|oclock|o'clock|'ow'sat|twas|y'allll|youd've|shes
t-shirt|top-left, right|e@mail|#1|@home|a.m.|10 a.m.|.5|5.|five;six|zero_one
wont|WONT|theyre|theyd've|shant|maam|notve|whyre|whats|whod've|hed|hadnt've
a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.a.b.c.d.e.f.g.h.i.j.k.
""".strip()
  .replace("\n", "|")
  .split("|")
)
WORDS = ("yes", "no", "2", "Red", "the cat", "dont know", "blue", "A dog")


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Packages that the code imports and these calls do not use."""

  needless = ("torchvision", "timm", "torchmetrics", "tensorboardX", "cv2")

  def find_spec(self, name, path, target=None):
    if name.split(".")[0] in self.needless:
      return importlib.machinery.ModuleSpec(name, self, is_package=True)
    return None

  def create_module(self, spec):
    module = mock.MagicMock(name=spec.name)
    module.__path__, module.__spec__ = [], spec
    return module

  def exec_module(self, module):
    pass


def questions(rng, start, images):
  """Questions of each image, and ten answers of each."""
  asked, notes = [], []
  for image in images:
    for _ in range(rng.randint(1, 3)):
      number = start + len(asked)
      at = {"question_id": number, "image_id": image}
      few = rng.sample(WORDS, 3)
      given = [rng.choice(few) for _ in range(10)]
      most = max(sorted(set(given)), key=given.count)
      asked.append(at | {"question": f"is it {number}?"})
      answers = [{"answer": answer} for answer in given]
      notes.append(at | {"multiple_choice_answer": most, "answers": answers})
  return {"questions": asked}, {"annotations": notes}


def vqa_files():
  """The published files' names, and small ones' content."""
  rng = random.Random(0)
  files = {}
  for year, images in (("train2014", (7, 12, 30)), ("val2014", range(40, 90))):
    asked, notes = questions(rng, images[0] * 1000, images)
    files[f"v2_OpenEnded_mscoco_{year}_questions.json"] = asked
    files[f"v2_mscoco_{year}_annotations.json"] = notes
  for year, count in (("test2015", 2), ("test-dev2015", 1)):
    asked, _ = questions(rng, 200_000, range(200, 200 + count))
    files[f"v2_OpenEnded_mscoco_{year}_questions.json"] = asked
  return files


def lines(path: Path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
  sys.meta_path.insert(0, Absent())
  sys.path.insert(0, str(Path(sys.argv[1]) / "beit3"))
  with mock.patch.dict(sys.modules, utils=mock.MagicMock()):
    datasets = importlib.import_module("datasets")
  tokenizer = SimpleNamespace(
    tokenize=lambda text: [text], convert_tokens_to_ids=lambda tokens: tokens
  )
  statement = lambda label, **more: (
    {"identifier": f"{more.pop('at')}-0-1", "sentence": "both", "label": label}
    | more
  )
  notes = {
    "train": [statement("True", at="train-1", directory=3)],
    "dev": [statement("False", at="dev-2")],
    "test1": [
      statement("True", at="test1-3"),
      statement("False", at="test1-4"),
    ],
  }
  image = lambda i, split, folder: {
    "filename": f"COCO_{folder}_{i:012d}.jpg",
    "filepath": folder,
    "split": split,
    "imgid": i,
    "cocoid": 10 + i,
    "sentences": [{"raw": f"caption {i}"}, {"raw": f"another {i}"}],
  }
  coco = {
    "images": [
      image(0, "test", "val2014"),
      image(1, "train", "train2014"),
      image(2, "restval", "val2014"),
    ]
  }
  with tempfile.TemporaryDirectory() as name:
    top = Path(name)
    files = vqa_files()
    (top / "vqa").mkdir()
    for file, content in files.items():
      (top / "vqa" / file).write_text(json.dumps(content))
    for folder, numbers in (
      ("train2014", (7, 12, 30)),
      ("val2014", range(40, 90)),
      ("test2015", (200, 201)),
    ):
      (top / folder).mkdir()
      for i in numbers:
        (top / folder / f"COCO_{folder}_{i:012d}.jpg").touch()
    (top / "nlvr/nlvr2/data").mkdir(parents=True)
    for split, entries in notes.items():
      text = "".join(json.dumps(entry) + "\n" for entry in entries)
      (top / f"nlvr/nlvr2/data/{split}.json").write_text(text)
    (top / "dataset_coco.json").write_text(json.dumps(coco))
    with contextlib.redirect_stdout(io.StringIO()):
      datasets.VQAv2Dataset.make_dataset_index(name, tokenizer, f"{name}/vqa")
      datasets.NLVR2Dataset.make_dataset_index(name, tokenizer, f"{name}/nlvr")
      datasets.CaptioningDataset.make_coco_captioning_dataset_index(
        name, tokenizer
      )
    stored = {
      "answers": [[a, datasets.normalize_word(a)] for a in ANSWERS],
      "vqa_files": files,
      "answer2label": lines(top / "answer2label.txt"),
      "vqa": {
        split: lines(top / f"vqa.{split}.jsonl")
        for split in ("train", "val", "test", "test-dev")
      },
      "nlvr2_files": notes,
      "nlvr2": {
        split: lines(top / f"nlvr2.{split}.index.jsonl")
        for split in ("train", "dev", "test-P")
      },
      "karpathy_file": coco,
      "karpathy": {
        split: lines(top / f"coco_captioning.{split}.jsonl")
        for split in ("train", "val", "test")
      },
    }
  path = Path(__file__).with_name("described.json")
  path.write_text(json.dumps(stored) + "\n")


if __name__ == "__main__":
  main()
