"""BEiT in small: how its results are put together; the whole at tiny size."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import results
from experiments.beit import config, in_small, model, replica, replica_figures
from experiments.tokenizers import Tokenizer


def fake_results():
  """Two seeds, in which pre-training wins but with all labels."""
  tops = {
    replica.row_name(50): ((60.0, 80.0), (64.0, 82.0)),
    replica.row_name(0): ((95.0, 96.0), (96.0, 95.0)),
    replica.PROBE: ((70.0, 90.0), (71.0, 91.0)),
  }
  finetune = replica.CONFIGS["mnist5k"].finetune
  return [
    replica.make_result(
      row, top1, dataclasses.replace(finetune, seed=seed), "p", 1.0
    )
    for row, both in tops.items()
    for seed, top1 in enumerate(both)
  ]


def summarised(found):
  columns = (replica.WITHOUT, replica.WITH, replica.GAIN)
  return in_small.summary(found, columns)


def test_claims_are_judged_over_all_seeds():
  text = results.claims(replica.TITLE, replica.CLAIMS, fake_results())
  helps = "pre-training helps: fine-tuned,"
  assert f"{helps} 50 labels: mnist5k: **seen** (60, 64 against 80, 82)" in text
  assert f"{helps} all labels: mnist5k: **not seen** (95, 96 again" in text
  assert f"{helps} 500 labels: not run" in text
  assert "helps: linear probe, all labels: mnist5k: **seen**" in text
  assert "50 labels than with all: mnist5k: **seen** (1, -1 against 2" in text


def test_means_and_spreads():
  content = summarised(fake_results())
  found = content[replica.row_name(50)]
  assert found[replica.WITHOUT] == {
    "mean": 62.0,
    "spread": pytest.approx(8**0.5),
    "runs": [60.0, 64.0],
  }
  assert found[replica.GAIN]["runs"] == [20.0, 18.0]
  single = summarised(fake_results()[:1])
  assert single[replica.row_name(50)][replica.WITH]["spread"] is None


def test_the_rows_of_a_result(tmp_path):
  """No path of this machine is in its file; the table has its numbers."""
  (result, *_) = fake_results()
  saved = json.loads(results.save(result, tmp_path).read_text())
  assert not {"init", "workdir", "data_dir"} & set(saved["config"])
  table = results.table(replica.TITLE, replica.ROWS, [result])
  assert "| fine-tuned, 50 labels |  |  | 60.0 | 80.0 | mnist5k" in table
  assert "| linear probe, all labels |  | 56.7 | not run | not run |" in table


def test_the_curve_is_drawn(tmp_path):
  content = summarised(fake_results())
  curve = {str(n): content[replica.row_name(n)] for n in (50, 0)}
  path = tmp_path / "curve.png"
  replica_figures.plot_curve(curve, path, (replica.WITHOUT, replica.WITH))
  assert path.stat().st_size > 1000


def test_predictions_take_the_place_of_masked_tokens():
  """A tokenizer of levels, and a network that always says token 3."""
  tiny = dataclasses.replace(
    config.CONFIGS["mnist5k"],
    image_size=8,
    num_masked=1,
    min_block=1,
    width=8,
    num_heads=1,
    num_layers=1,
    mlp_width=8,
  )

  def encode(params, images):
    corners = images[:, ::4, ::4, 0] * params
    return corners.reshape(len(images), -1).astype(jnp.int32)

  def decode(params, tokens):
    grid = tokens.reshape(-1, 2, 2, 1) / params
    return grid.repeat(4, 1).repeat(4, 2)

  tokenizer = Tokenizer(jnp.array(4.0), encode, decode, 5, 4, 1)
  network = model.make_mim(tiny, 5)
  x = np.full((2, 8, 8, 1), 0.25, np.float32)
  x[1] = 0.5
  params = jax.jit(network.init)(jax.random.key(0), x)["params"]
  head = {
    "kernel": jnp.zeros_like(params["lm_head"]["kernel"]),
    "bias": jnp.arange(5.0) * jnp.array([1, 1, 1, 9, 1]),
  }
  mask = np.zeros((2, 2, 2), bool)
  mask[:, 0, 1] = True
  images, seen, predicted, own = replica_figures.predict(
    tiny, tokenizer, params | {"lm_head": head}, x, x, mask
  )
  np.testing.assert_array_equal(images, x)
  np.testing.assert_array_equal(own, x)
  x[:, :4, 4:] = 0
  np.testing.assert_array_equal(seen, x)
  x[:, :4, 4:] = 3 / 4
  np.testing.assert_array_equal(predicted, x)
  blind = tokenizer._replace(decode=None)
  with pytest.raises(ValueError, match="a tokenizer that can decode"):
    replica_figures.predict(tiny, blind, params, x, x, mask)


@pytest.mark.slow
def test_the_whole_replica(tmp_path):
  what = dataclasses.replace(
    replica.CONFIGS["mnist5k"],
    labels=(20, 0),
    seeds=(0,),
    workdir=str(tmp_path),
    smoke=True,
  )
  replica.main(what)
  names = ("replica.md", "curve.png", "predictions.png", "dvae/loss.png")
  assert all((tmp_path / name).exists() for name in names)
  rows = json.loads((tmp_path / "replica.json").read_text())["rows"]
  assert set(rows) == {
    replica.row_name(20),
    replica.row_name(0),
    replica.PROBE,
  }
  assert len(list((tmp_path / "results").glob("*.json"))) == 3
