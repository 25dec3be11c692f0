"""BEiT-3's tasks: recipes, batches, judgement by networks that are known."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.beit3 import (
  caption,
  finetuning,
  nlvr2,
  retrieval,
  shapes,
  table_ade20k,
  table_captions,
  table_imagenet,
  table_nlvr2,
  table_vqav2,
  task_batches,
  vqa,
)
from experiments.beit3.classify_config import CLASSIFIERS, Classify
from experiments.beit3.recipes import RECIPES
from experiments.beit3.retrieval_config import RETRIEVALS
from experiments.beit3.task_config import (
  ANSWERS,
  CAPTIONS,
  STATEMENTS,
  Answers,
  Captions,
)
from experiments.results import claims
from jaxgen import data
from jaxgen.convert import beit3
from jaxgen.convert.state import write_safetensors
from jaxgen.nn.beit3 import BEIT3S

SPM = str(Path(__file__).parents[1] / "data/small.spm")
SHAPES = dataclasses.replace(ANSWERS["shapes"], batch_size=8)


def test_tasks_are_trained_by_the_published_recipes():
  """Those of `recipes`, which are compared with the commands elsewhere."""
  shared = ("epochs", "warmup", "rand_augment", "head_rate", "indomain_lr")
  for task, configs, examples in (
    ("vqav2", ANSWERS, 443_757 + 214_354 - 214_354 / 40.504),
    ("nlvr2", STATEMENTS, 86_373),
    ("coco_captioning", CAPTIONS, 566_747),
    ("imagenet", CLASSIFIERS, 1_281_167),
  ):
    sizes = [size for size in BEIT3S if f"{task}_{size}" in RECIPES]
    assert len(sizes) == (2 if task == "coco_captioning" else 3)
    for size in sizes:
      config, recipe = configs[size], RECIPES[f"{task}_{size}"]
      for field in dataclasses.fields(recipe):
        if field.name not in shared and hasattr(config, field.name):
          assert getattr(config, field.name) == getattr(recipe, field.name)
      epoch = examples / recipe.batch_size
      assert config.steps == pytest.approx(recipe.epochs * epoch, rel=3e-3)
      assert config.warmup == pytest.approx(recipe.warmup * epoch, rel=3e-3)
      trunk = finetuning.model.make_trunk(config)
      # Experts of pairs are of no use to a classifier.
      wanted = BEIT3S[size].clone(pair_layers=trunk.pair_layers)
      assert trunk.clone(drop_path=0.0) == wanted
      if hasattr(config, "pair_layers"):
        assert trunk.pair_layers == BEIT3S[size].pair_layers
  assert ANSWERS["base"].rand_augment == 7
  assert ANSWERS["base"].head_rate == 20
  assert ANSWERS["large_indomain_768"].image_size == 768
  assert STATEMENTS["base"].rand_augment == 0
  assert STATEMENTS["base_indomain"].lr == 5e-4
  assert CAPTIONS["nocaps_base"].lr == 1e-5
  assert (CLASSIFIERS["base"].mixup, CLASSIFIERS["base"].cutmix) == (0.8, 1.0)


def test_the_papers_giant_network():
  """Wang et al. 2023, Tables 12 to 14 and 17."""
  fields = ("lr", "layer_decay", "weight_decay", "drop_path", "batch_size",
            "image_size")  # fmt: skip
  retrievals = RETRIEVALS["coco_giant"], RETRIEVALS["flickr30k_giant"]
  for config, epochs, numbers in (
    (STATEMENTS["giant"], 20 / 5, (1e-3, 0.8, 0.05, 0.4, 256, 224)),
    (ANSWERS["giant"], 10 / 1, (1e-5, 1.0, 0.01, 0.4, 128, 756)),
    (CAPTIONS["giant"], 16_000 / 1600, (8e-6, 1.0, 0.01, 0.3, 256, 392)),
    (retrievals[0], 15 / 3, (1e-5, 0.95, 0.05, 0.3, 3072, 420)),
    (retrievals[1], 20 / 5, (1e-5, 0.95, 0.05, 0.3, 3072, 420)),
    (CLASSIFIERS["giant"], 15 / 3, (3e-5, 0.95, 0.05, 0.4, 2048, 336)),
  ):
    assert tuple(getattr(config, name) for name in fields) == numbers
    assert config.steps / config.warmup == epochs
    assert config.steps == config.decay_steps
    assert config.b2 == 0.999
  captions = CAPTIONS["giant"]
  assert captions.steps == 16_000
  assert (captions.mask_share, captions.smoothing) == (0.6, 0.1)
  assert captions.num_beams == 3
  for config in (captions, *retrievals):
    trunk = finetuning.model.make_trunk(config)
    assert trunk.clone(drop_path=0.0) == BEIT3S["giant"]


def squares(image):
  """The colours of the squares, read from the pixels."""
  names = {colour: name for name, colour in shapes.COLOURS.items()}
  middles = image[4::8, 4::8].reshape(-1, 3).tolist()
  return [names[tuple(c)] for c in middles if tuple(c) in names]


def test_squares_are_asked_about_as_they_are():
  source = shapes.Shapes("question", "val")
  for example in source:
    found = squares(example["image"])
    answer = source.label_names[example["labels"][0]]
    if example["question"].startswith("how many"):
      assert answer == str(len(found))
    else:
      colour = example["question"].split()[3]
      assert answer == ("yes" if colour in found else "no")
    assert len(set(example["labels"])) == 2
  said = shapes.Shapes("statement", "val")
  for example in said:
    left, right = squares(example["image"]), squares(example["other"])
    first, *_, colour, _ = example["statement"].split()
    truth = {
      "both": colour in left and colour in right,
      "one": (colour in left) != (colour in right),
      "there": len(left) > len(right),
    }[first]
    assert example["label"] == truth
  assert abs(np.mean([e["label"] for e in said]) - 0.5) < 0.07


def test_views():
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  rng = np.random.default_rng(1)
  still = task_batches.View(32, 1.0, False, 0)
  np.testing.assert_array_equal(still.random(image, rng), image)
  np.testing.assert_array_equal(still.whole(image), image)
  wide = np.repeat(image[:, :1], 64, axis=1)
  np.testing.assert_array_equal(still.whole(wide), wide[:, :32])
  moving = dataclasses.replace(still, magnitude=7)
  changed = [
    not np.array_equal(moving.random(image, rng), image) for _ in range(200)
  ]
  # Each of two changes is done with 1/2, and one of ten is none.
  assert abs(np.mean(changed) - (1 - 0.55**2)) < 0.12


def test_batches_of_tasks():
  text = data.beit3_tokenizer(SPM, 16)
  source = task_batches.Spoken(SHAPES, "train", "question")
  view = task_batches.view_of(SHAPES)
  question = task_batches.Question(view, text, 5)
  batch = next(task_batches.training_batches(SHAPES, source, question))
  assert batch["image"].shape == (8, 32, 32, 3)
  assert batch["tokens"].shape == (8, 16)
  np.testing.assert_allclose(np.sort(batch["targets"])[:, 3:], [[0.6, 1.0]] * 8)
  (judged, *_) = task_batches.judging_batches(SHAPES, source, question)
  np.testing.assert_array_equal(judged["question_id"], np.arange(8))
  config = STATEMENTS["shapes"]
  said = task_batches.Spoken(config, "train", "statement")
  statement = task_batches.Statement(view, text)
  batch = next(task_batches.training_batches(config, said, statement))
  assert set(batch) == set(nlvr2.KEEP)
  assert next(said.texts())[0] == said[0]["statement"]
  words = task_batches.Caption(view, text, 0.7)
  example = {"image": said[0]["image"], "texts": ["a b a b", "b b b b b b"]}
  found = words(example, np.random.default_rng(0))
  assert set(found) == set(caption.KEEP)
  real = (found["tokens"] != 1).sum()
  assert found["word_mask"].sum() == int(0.7 * real + 0.5)
  assert not found["word_mask"][0]


def test_the_rate_of_the_heads_last_layers():
  """20 times that of the tensors that the released code calls "head"."""
  config = dataclasses.replace(
    *(ANSWERS["base"],),
    **{"width": 8, "num_layers": 1, "num_heads": 1, "mlp_width": 8},
    **{"vocab_size": 9, "image_size": 16, "num_answers": 3, "warmup": 1},
  )
  network = vqa.TASK.network(config)
  inputs = finetuning.model.sample_inputs(config, network)
  shaped = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
  params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shaped)
  optimizer = finetuning.make_optimizer(vqa.TASK, config)

  @jax.jit
  def second(params):
    grads = jax.tree.map(jnp.ones_like, params)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    return optimizer.update(grads, state, params)[0]

  named = beit3.to_original(second(params), network)
  assert {name for name in named if name.startswith("head")}
  for name, update in named.items():
    rate = config.lr * (20 if name.startswith("head") else 1)
    np.testing.assert_allclose(update, -rate, rtol=1e-4, err_msg=name)


class Known:
  """A network whose logits are known: `of` its images and texts."""

  def __init__(self, of):
    self.of = of

  def apply(self, variables, *inputs, **options):
    return self.of(*inputs)


def tuned(config):
  return finetuning.Tuned(config, {}, data.beit3_tokenizer(SPM, 16))


def known(monkeypatch, module, of):
  task = dataclasses.replace(module.TASK, network=lambda config: Known(of))
  monkeypatch.setattr(module, "TASK", task)


def test_answers_and_the_file_for_the_server(monkeypatch, tmp_path):
  """A network that always says "no": 0.6 or 1 where "no" was said."""
  always = jnp.arange(5, 0, -1.0)
  known(
    monkeypatch,
    vqa,
    lambda x, *_: jnp.broadcast_to(always[None], (len(x), 5)),
  )
  source = task_batches.Spoken(SHAPES, "val", "question")
  right = [
    {2: 0.6, 8: 1.0}[dict(zip(e["labels"], e["counts"], strict=True)).get(0)]
    if 0 in e["labels"]
    else 0.0
    for e in source
  ]
  accuracy, number = vqa.judge(tuned(SHAPES))
  assert (accuracy, number) == (pytest.approx(100 * np.mean(right)), 500)
  monkeypatch.setattr(finetuning, "load", lambda *a, **_: tuned(SHAPES))
  path = table_vqav2.submit("any", "val", tmp_path)
  answers = json.loads(path.read_text())
  assert answers == [{"question_id": i, "answer": "no"} for i in range(500)]
  table_vqav2.main(["any"], out=str(tmp_path))
  text = (tmp_path / "table.md").read_text()
  assert (
    f"| small, from scratch |  |  |  | not run | not run | {accuracy:.2f}"
    in text
  )


def test_statements_are_judged(monkeypatch):
  """A network that says "true" where the left image has more colour."""

  def more(image, other, *_):
    grey = lambda x: jnp.abs(x - x[:, :1, :1]).sum((1, 2, 3))
    more = grey(image) > grey(other)
    return jax.nn.one_hot(more.astype(int), 2)

  known(monkeypatch, nlvr2, more)
  config = dataclasses.replace(STATEMENTS["shapes"], batch_size=64)
  source = task_batches.Spoken(config, "val", "statement")
  colour = lambda x: np.abs(x.astype(int) - 128).sum()
  want = np.mean(
    [(colour(e["image"]) > colour(e["other"])) == e["label"] for e in source]
  )
  found = nlvr2.judge(tuned(config), "val")
  assert found.n == 500
  assert found.top1 == pytest.approx(want, abs=0.005)


def test_captions_and_their_file(monkeypatch, tmp_path):
  """Three images in Karpathy's layout, which a known network describes."""
  texts = ("a b a b", "b a b b", "a a a b")
  images = [
    {
      "filename": f"{i}.png",
      "filepath": "val2014",
      "split": "test",
      "imgid": i,
      "cocoid": 100 + i,
      "sentences": [{"raw": text}, {"raw": f"{text} a"}],
    }
    for i, text in enumerate(texts)
  ]
  (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
  (tmp_path / "val2014").mkdir()
  for i in range(3):
    picture = Image.new("RGB", (20, 30), (10 * i,) * 3)
    picture.save(tmp_path / f"val2014/{i}.png")
  config = dataclasses.replace(
    CAPTIONS["openmoji32"],
    dataset=f"karpathy:{tmp_path}",
    batch_size=8,
  )
  text = data.beit3_tokenizer(SPM, 16)
  table = jnp.asarray(text(list(texts)))

  def write(network, params, images, **options):
    assert (options["start"], options["end"], options["pad"]) == (0, 2, 1)
    number = jnp.round((images[:, 0, 0, 0] + 1) * 12.75).astype(int)
    return table[number], None

  known(monkeypatch, caption, None)
  monkeypatch.setattr(caption, "write_captions", write)
  monkeypatch.setattr(finetuning, "load", lambda *a, **_: tuned(config))
  result = table_captions.measure("any", tmp_path)
  captions = json.loads(
    (tmp_path / "captions-openmoji32-karpathy.json").read_text()
  )
  assert captions == [
    {"image_id": 100 + i, "caption": text} for i, text in enumerate(texts)
  ]
  assert result.ours["BLEU-4"] == "100.0"
  assert result.row == "small, from scratch"
  assert result.config["dataset"] == "karpathy"
  assert caption.scores_of(["a"], [[]]) == {}


class State(NamedTuple):
  """As much of a state as the step of captions looks at."""

  step: Any


def test_worst_words_are_left_out_late(monkeypatch):
  """A fifth of them after 12,000 updates (Wang et al. 2023's code)."""
  monkeypatch.setattr(
    finetuning, "make_step", lambda *_: lambda state, batch: (state, batch)
  )
  step = caption.make_step(CAPTIONS["base"], None)
  for number, share in ((0, 0.0), (12_000, 0.0), (12_001, 0.2)):
    _, batch = step(State(jnp.asarray(number)), {"image": jnp.zeros((4, 2))})
    np.testing.assert_allclose(batch["drop_worst"], [share] * 4)


def test_a_released_file_of_a_task(monkeypatch, tmp_path):
  """NAME:FILE, its parameters as they were written."""
  config = dataclasses.replace(
    ANSWERS["base"],
    **{"width": 8, "num_layers": 1, "num_heads": 1, "mlp_width": 8},
    **{"vocab_size": 70, "image_size": 32, "max_length": 16},
    num_answers=5,
  )
  network = vqa.TASK.network(config)
  inputs = finetuning.model.sample_inputs(config, network)
  shaped = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(np.float32), shaped
  )
  path = tmp_path / "vqa.safetensors"
  write_safetensors(path, beit3.to_original(params, network))
  task = dataclasses.replace(vqa.TASK, configs={"tiny": config})
  found = finetuning.load(task, f"tiny:{path}", spm=SPM, dataset="shapes")
  jax.tree.map(np.testing.assert_array_equal, found.params, params)
  assert (found.config.dataset, found.tokenizer.length) == ("shapes", 16)
  with pytest.raises(ValueError, match=r"vqa.safetensors needs --spm"):
    finetuning.load(task, f"tiny:{path}")
  with pytest.raises(ValueError, match="vqa has no configuration 'huge'"):
    finetuning.load(task, f"huge:{path}")


def test_tables_have_their_claims_rows():
  for module in (
    *(table_captions, table_vqav2, table_nlvr2, table_imagenet),
    *(retrieval, table_ade20k),
  ):
    rows = {row.name for row in module.ROWS}
    for claim in module.CLAIMS:
      assert {claim.smaller[0], claim.larger[0]} <= rows
    assert claims(module.TITLE, module.CLAIMS, []).count("not run") == len(
      module.CLAIMS
    )
    assert module.NOTE.startswith("\n")
    assert all(row.command.startswith("python -m ") for row in module.ROWS)


def test_mistakes_are_one_sentence(tmp_path):
  with pytest.raises(ValueError, match=r"mask_share .* got 1.0"):
    Captions(mask_share=1.0)
  with pytest.raises(ValueError, match=r"drop_worst must lie in \[0, 1\)"):
    Captions(drop_worst=1.0)
  with pytest.raises(ValueError, match="max_length >= 3, got 3 and 2"):
    Captions(max_length=2)
  with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
    Answers(accumulate=0)
  with pytest.raises(ValueError, match=r"crop_pct .* got 2"):
    Classify(crop_pct=2)
  with pytest.raises(ValueError, match="shapes has no split 'test'"):
    task_batches.Spoken(SHAPES, "test", "question")
  config = dataclasses.replace(SHAPES, dataset="mnist5k")
  with pytest.raises(ValueError, match="no questions: give --dataset vqav2"):
    task_batches.Spoken(config, "train", "question")
  config = dataclasses.replace(SHAPES, num_answers=6)
  with pytest.raises(
    ValueError, match="5 answers in its list, got num_answers"
  ):
    vqa.open_questions(config, "val")
  with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
    finetuning.load(vqa.TASK, str(tmp_path))
