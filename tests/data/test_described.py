"""Published files of VQAv2, NLVR2, COCO and NoCaps, as BEiT-3's code reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import load, vqa
from jaxgen.masked import answer_targets

STORED = json.loads(
  Path(__file__).with_name("described.json").read_text(encoding="utf-8")
)


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """All files, without images."""
  top = tmp_path_factory.mktemp("described")
  for name, content in STORED["vqa_files"].items():
    write(top / "vqa" / name, content)
  for name, notes in STORED["nlvr2_files"].items():
    path = top / f"nlvr/nlvr2/data/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(note) + "\n" for note in notes))
  write(top / "dataset_coco.json", STORED["karpathy_file"])
  return top


def test_answers_are_written_as_the_original_writes_them():
  for answer, want in STORED["answers"]:
    assert vqa.normalized_answer(answer) == want, answer


def test_answers_of_the_list():
  assert vqa.answer_list(["y", "x", "The Y", "y.", "x", "z"], 2) == ("y", "x")


def test_vqav2(root, monkeypatch):
  """The list in its order; each question's answers; who is held out."""
  source = load(f"vqav2:{root}")
  want = [entry["answer"] for entry in STORED["answer2label"]]
  assert list(source.label_names) == want
  for split in ("train", "val", "test", "test-dev"):
    entries = load(f"vqav2:{root}", split).records.entries
    found = {entry["question_id"]: entry for entry in entries}
    if split == "val":  # the original leaves out questions without an answer
      found = {i: entry for i, entry in found.items() if entry["labels"]}
    assert set(found) == {item["qid"] for item in STORED["vqa"][split]}
    for item in STORED["vqa"][split]:
      entry = found[item["qid"]]
      assert entry["image"] == item["image_path"]
      assert [entry["question"]] == item["text_segment"]
      targets = answer_targets(np.array(entry.get("counts", []), int))
      scores = dict(zip(item["labels"], item["scores"], strict=True))
      assert dict(
        zip(entry.get("labels", []), targets.tolist(), strict=True)
      ) == pytest.approx(scores)
  monkeypatch.setattr(vqa, "_HELD_OUT", 20)
  images = {
    split: {e["image"] for e in load(f"vqav2:{root}", split).records.entries}
    for split in ("train", "val")
  }
  assert len(images["val"]) == 20
  assert not images["train"] & images["val"]
  assert {name.split("/")[0] for name in images["val"]} == {"val2014"}
  assert {n.split("/")[0] for n in images["train"]} == {"train2014", "val2014"}


def test_nlvr2(root):
  for ours, theirs in (("train", "train"), ("dev", "dev"), ("test", "test-P")):
    found = load(f"nlvr2:{root}", ours).records.entries
    assert [
      [e["image"], e["other"], [e["statement"]], e["label"]] for e in found
    ] == [
      [i["image_path"], i["image2_path"], i["text_segment"], i["label"]]
      for i in STORED["nlvr2"][theirs]
    ]


def test_karpathys_splits(root):
  entries = load(f"karpathy:{root}", "train+restval").records.entries
  assert [
    [e["image"], [text], e["image_id"]]
    for e in entries
    for text in e["captions"]
  ] == [
    [i["image_path"], [i["text_segment"]], i["image_id"]]
    if isinstance(i["text_segment"], str)
    else [i["image_path"], i["text_segment"], i["image_id"]]
    for i in STORED["karpathy"]["train"]
  ]
  (entry,) = load(f"karpathy:{root}", "test").records.entries
  (item,) = STORED["karpathy"]["test"]
  assert (entry["image"], entry["image_id"]) == (
    item["image_path"],
    item["image_id"],
  )
  has = "'valid'; it has 'restval', 'test', 'train'"
  with pytest.raises(ValueError, match=has):
    load(f"karpathy:{root}", "train+valid")


def test_flickr_and_nocaps(tmp_path):
  image = {"filename": "1.jpg", "split": "val", "imgid": 4}
  image["sentences"] = [{"raw": "A dog ."}]
  write(tmp_path / "dataset_flickr30k.json", {"images": [image]})
  (entry,) = load(f"karpathy:{tmp_path}", "val").records.entries
  assert entry["image"] == "flickr30k-images/1.jpg"
  assert entry["captions"] == ["A dog ."]
  photos = [{"id": i, "file_name": f"{i}.jpg"} for i in (3, 5)]
  notes = [{"image_id": 3, "caption": text} for text in ("a", "b")]
  content = {"images": photos, "annotations": notes}
  write(tmp_path / "nocaps_val_4500_captions.json", content)
  found = load(f"nocaps:{tmp_path}", "val").records.entries
  assert [e["captions"] for e in found] == [["a", "b"], []]
  assert found[1]["image"] == "val/5.jpg"


def test_both_images_are_decoded(root, tmp_path):
  path = tmp_path / "nlvr/nlvr2/data/dev.json"
  path.parent.mkdir(parents=True)
  path.write_text(json.dumps(STORED["nlvr2_files"]["dev"][0]))
  pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
  (tmp_path / "dev").mkdir()
  for i in range(2):
    Image.fromarray(pictures[i]).save(tmp_path / f"dev/dev-2-0-img{i}.png")
  (example,) = load(f"nlvr2:{tmp_path}", "dev")
  np.testing.assert_array_equal(example["image"], pictures[0])
  np.testing.assert_array_equal(example["other"], pictures[1])
  with pytest.raises(
    FileNotFoundError, match=r"train-1-0-img0\.png' in .*No s"
  ):
    load(f"nlvr2:{root}")[0]


def test_mistakes_are_one_sentence(root, tmp_path):
  for name, file in (
    ("vqav2", "train2014_annotations.json is published at https://visualqa"),
    ("nlvr2", r"train.json is published at https://github.com/lil-lab/nlvr"),
    ("karpathy", "dataset_coco.json is published at https://cs.stanford"),
    ("nocaps", "NoCaps has no split 'train'; it has val, test"),
  ):
    with pytest.raises((FileNotFoundError, ValueError), match=file):
      load(f"{name}:{tmp_path}")
  with pytest.raises(ValueError, match="VQAv2 has no split 'dev'"):
    load(f"vqav2:{root}", "dev")
  write(tmp_path / "dataset_coco.json", {"images": [{"filename": 3}]})
  with pytest.raises(ValueError, match=r"entries with filename \(str\), split"):
    load(f"karpathy:{tmp_path}")
  write(tmp_path / "dataset_coco.json", {"pictures": []})
  with pytest.raises(ValueError, match="hold a list 'images', got None"):
    load(f"karpathy:{tmp_path}")
  image = STORED["karpathy_file"]["images"][0] | {"filepath": ".."}
  write(tmp_path / "dataset_coco.json", {"images": [image]})
  with pytest.raises(ValueError, match=r"image '../COCO.*it lies outside"):
    load(f"karpathy:{tmp_path}", "test")[0]
  write(tmp_path / "dataset_coco.json", {"images": [image | {"split": "\0"}]})
  with pytest.raises(ValueError, match=r"no split 'test'; it has '\\x00'$"):
    load(f"karpathy:{tmp_path}", "test")
  image["filepath"] = "\ud800"
  write(tmp_path / "dataset_coco.json", {"images": [image]})
  with pytest.raises(FileNotFoundError, match="no file can have this name"):
    load(f"karpathy:{tmp_path}", "test")[0]
  data = tmp_path / "nlvr/nlvr2/data"
  data.mkdir(parents=True)
  (data / "dev.json").write_text("{\n")
  with pytest.raises(ValueError, match=r"dev.json, line 1, is not JSON"):
    load(f"nlvr2:{tmp_path}", "dev")
  note = {"identifier": "a-0", "sentence": "b", "label": "maybe"}
  (data / "dev.json").write_text(json.dumps(note))
  with pytest.raises(
    ValueError, match=r"line 1, .* True or False, got 'maybe'"
  ):
    load(f"nlvr2:{tmp_path}", "dev")
  for name, content in STORED["vqa_files"].items():
    few = (
      {"questions": content["questions"][1:]}
      if "questions" in content
      else content
    )
    write(tmp_path / "vqa" / name, few)
  with pytest.raises(ValueError, match="lacks question 7000 of"):
    load(f"vqav2:{tmp_path}")
