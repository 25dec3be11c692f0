"""BEiT v2 in small: its arms, its table; the whole at tiny size."""

import dataclasses
import json

import pytest

from experiments import results
from experiments.beit import in_small
from experiments.beit2 import replica
from experiments.beit2.config import SMALL
from jaxgen import training

TUNED = in_small.row_name(500)


def made(arm, mean, cls, tuned, seed=0):
  """The result of an arm, whose fine-tunings with few and all are alike."""
  values = {replica.MEAN: mean, replica.CLS: cls}
  values |= dict.fromkeys(replica.COLUMNS[2:], tuned)
  config = dataclasses.replace(
    replica.CONFIGS["mnist5k"].pretrain, tokenizer="/tmp/x", seed=seed
  )
  return replica.make_result(arm, values, config, "p", 1.0)


def test_claims_by_hand():
  """Better tokens help; aggregation moves what is known to the class token."""
  found = [
    made("dvae", 60.0, 20.0, 80.0),
    made("dvae", 61.0, 25.0, 81.0, seed=1),
    made("vqkd", 70.0, 30.0, 90.0),
    made("vqkd", 69.0, 35.0, 91.0, seed=1),
    made("vqkd-aggregation", 50.0, 75.0, 85.0),
    made("vqkd-aggregation", 50.0, 69.5, 79.0, seed=1),
  ]
  text = results.claims(replica.TITLE, replica.CLAIMS, found)
  tokens = "VQ-KD's tokens are better targets than a dVAE's"
  assert f"{tokens}: probe: mean of patches: mnist5k: **seen** (60, 6" in text
  assert f"{tokens}: {TUNED}: mnist5k: **seen** (80, 81 against 90, 9" in text
  assert "improves the class token: mnist5k: **seen** (30, 35 against" in text
  assert (
    "with the class token, improves the probe: mnist5k: **not seen** (70, 69 "
    "against 75, 69.5)"
  ) in text
  assert f"than BEiT: {TUNED}: mnist5k: **not seen** (80, 81 against" in text
  assert f"{tokens} (own teacher): {TUNED}: not run" in text


def test_the_rows_of_a_result(tmp_path):
  """No path of this machine is in its file; commands name the arm."""
  saved = results.save(made("vqkd-aggregation", 50, 75, 85), tmp_path)
  read = results.read(saved)
  assert read.config["tokenizer"] == "vqkd"
  assert "workdir" not in read.config
  text = results.table(replica.TITLE, replica.ROWS, [read])
  row = "| VQ-KD, aggregation |  | 80.1 |  | 85.0 | 50.0 | 75.0 | 85.0 | 85.0 |"
  assert row in text
  assert "`python -m experiments.beit2.replica mnist5k --arms vqkd-aggr" in text
  assert f"replica NAME --arms {list(replica.ARMS)[-1]}`" in text


@pytest.mark.parametrize("name", list(replica.CONFIGS))
def test_arms_differ_in_nothing_else(name, monkeypatch, tmp_path):
  what = dataclasses.replace(replica.CONFIGS[name], workdir=str(tmp_path))
  assert what.dvae.num_tokens == what.vqkd.num_codes
  assert what.dvae.f == what.vqkd.patch_size == what.pretrain.patch_size
  assert what.vqkd == dataclasses.replace(
    SMALL[name], num_codes=what.dvae.num_tokens
  )
  monkeypatch.setattr(replica, "make_tokenizer", lambda *args: args[-1])
  configs = [replica.pretraining(what, 3, arm) for arm in replica.ARMS]
  layers = [config.early_layer for config in configs]
  last = what.pretrain.num_layers - 1
  assert layers == [0, 0, last, 0, last]
  assert len({config.workdir for config in configs}) == len(configs)
  same = {"early_layer": 0, "tokenizer": "", "workdir": ""}
  assert len({dataclasses.replace(c, **same) for c in configs}) == 1


@pytest.mark.slow
def test_the_whole_replica(tmp_path):
  """Arms that are run later join the table; the own teacher is the first's."""
  what = dataclasses.replace(
    replica.CONFIGS["mnist5k"],
    seeds=(0,),
    workdir=str(tmp_path),
    smoke=True,
  )
  replica.main(what)
  later = dataclasses.replace(what, arms=("own-aggregation",))
  replica.main(later)
  names = ("replica.md", "accuracies.png", "dvae/loss.png", "vqkd/loss.png")
  assert all((tmp_path / name).exists() for name in names)
  content = json.loads((tmp_path / "replica.json").read_text())
  arms = (*what.arms, *later.arms)
  assert list(content["rows"]) == [replica.ARMS[arm].row for arm in arms]
  assert set(content["tokenizers"]) == {"dvae", "vqkd"}
  assert len(list((tmp_path / "results").glob("*.json"))) == 4
  tokenizer = tmp_path / "seed0" / "own-vqkd" / "checkpoints"
  teacher = training.restore_experiment(tokenizer)["teacher"]
  assert teacher == str(tmp_path / "seed0" / "dvae" / "finetune-500")
