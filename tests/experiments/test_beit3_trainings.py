"""BEiT-3's trainings for tasks at tiny size, by their scripts."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments.beit3 import (
  caption,
  classify,
  finetuning,
  nlvr2,
  retrieval,
  table_captions,
  table_imagenet,
  table_nlvr2,
  table_vqav2,
  vqa,
)
from experiments.beit3.classify_config import CLASSIFIERS
from experiments.beit3.config import smoke
from experiments.beit3.task_config import ANSWERS, CAPTIONS, STATEMENTS
from jaxgen.convert import beit3
from jaxgen.convert.state import write_safetensors

pytestmark = pytest.mark.slow

SCRIPTS = {
  "caption": (caption, CAPTIONS["openmoji32"], table_captions),
  "vqa": (vqa, ANSWERS["shapes"], table_vqav2),
  "nlvr2": (nlvr2, STATEMENTS["shapes"], table_nlvr2),
  "classify": (classify, CLASSIFIERS["openmoji32"], table_imagenet),
}


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_training_and_its_row(name, tmp_path):
  """Six steps, twice in one go and once continued; then the table."""
  script, config, table = SCRIPTS[name]
  run = tmp_path / "run"
  config = dataclasses.replace(config, smoke=True, workdir=str(run))
  script.train(config)
  found = lines(run)
  assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
  assert all(np.isfinite(line["loss"]) for line in found)
  assert (run / "result.json").is_file()
  shutil.copytree(run, tmp_path / "again")
  shutil.rmtree(tmp_path / "again/checkpoints/6")
  script.train(dataclasses.replace(config, workdir=str(tmp_path / "again")))
  assert lines(tmp_path / "again") == found
  table.main([str(run)], out=str(tmp_path / "out"))
  text = (tmp_path / "out/table.md").read_text()
  assert "| small, from scratch |" in text
  row = next(x for x in text.splitlines() if "| small, from scratch |" in x)
  assert "(scaled-down replica)" in row
  result = json.loads((run / "result.json").read_text())
  if name == "caption":
    captions = json.loads((run / "captions.json").read_text())
    assert len(captions) == result["n"]
    assert result["CIDEr-D"] >= 0
  with pytest.raises(ValueError, match="not a training of retrieval"):
    finetuning.load(retrieval.TASK, str(run))


@pytest.mark.parametrize("name", ["vqa", "nlvr2"])
def test_micro_batches_are_the_batch(name, tmp_path):
  """Means over examples: the same losses; two devices' shares each."""
  script, config, _ = SCRIPTS[name]
  losses = []
  for accumulate in (1, 2):
    run = tmp_path / str(accumulate)
    script.train(
      dataclasses.replace(
        smoke(config),
        **{"workdir": str(run), "accumulate": accumulate, "test_split": ""},
        steps=3,
      )
    )
    losses.append([line["loss"] for line in lines(run)])
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("name", SCRIPTS)
def test_tasks_start_from_a_released_trunk(name, tmp_path):
  """One of smaller images, with what the task does not use."""
  script, config, _ = SCRIPTS[name]
  config = dataclasses.replace(
    smoke(config),
    **{"shared_attention": False, "image_size": 32, "init_size": 16},
    init=str(tmp_path / "beit3.safetensors"),
  )
  # A classifier does not know of how many words there are but the release's.
  words = 64010 if name == "classify" else config.vocab_size
  full = dataclasses.replace(
    smoke(CAPTIONS["openmoji32"]),
    **{"shared_attention": False, "pair_layers": 0, "vocab_size": words},
  )
  trunk = finetuning.model.make_trunk(full)
  x, tokens = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 16), int)
  params = jax.jit(trunk.init)(jax.random.key(1), x, tokens)["params"]
  write_safetensors(config.init, beit3.to_original(params, trunk))
  if name != "classify":
    config = dataclasses.replace(config, pair_layers=0)
  network = script.TASK.network(config)
  found = finetuning.model.init_network(config, network, jax.random.key(0))
  assert found["trunk"]["vision_positions"].shape == (2 + 17, 32)
  np.testing.assert_array_equal(
    found["trunk"]["patch_embed"]["kernel"], params["patch_embed"]["kernel"]
  )
  assert ("text_embed" in found["trunk"]) == (name != "classify")
