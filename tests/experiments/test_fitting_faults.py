"""A training whose data or loss is bad says which example, or goes on."""

import dataclasses
import json
import re
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import fitting
from experiments.plots import read_metrics
from jaxgen import data, training

N = 40
# The examples of the first batches; the first five are an epoch.
STREAM = [data.batch_examples(N, 8, 0, n) for n in range(8)]
BAD = int(STREAM[3][5])


@dataclasses.dataclass(frozen=True)
class Config:
  """What `fit` asks of one."""

  workdir: str = ""
  steps: int = 8
  on_nan: Literal["stop", "skip"] = "stop"
  batch_size: int = 8
  image_size: int = 4
  dataset: str = "made-up"
  split: str = "train"
  data_dir: str = ""
  flip: bool = False
  seed: int = 0
  fsdp: int = 1
  save_every: int = 2
  log_every: int = 1
  num_workers: int = 0


class Source(list):
  """Images of noise; that of `unreadable` cannot be read."""

  unreadable = None

  def __getitem__(self, index):
    if index == self.unreadable:
      raise OSError(5, "Input/output error")
    return super().__getitem__(index)


@pytest.fixture
def source(monkeypatch):
  """Image BAD is white, which no other is anywhere near."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 200, (N, 4, 4, 1), np.uint8)
  images[BAD] = 255
  source = Source({"image": image} for image in images)
  monkeypatch.setattr(data, "load", lambda *_: source)
  return source


def loss_fn(params, key, batch):
  """Not a number where the batch has a white image."""
  means = batch["image"].mean((1, 2, 3))
  white = means == 1
  loss = jnp.mean((params["w"] - means) ** 2)
  return loss + jnp.where(white.any(), jnp.nan, 0.0)


OPTIMIZER = training.adam(0.1)


@pytest.fixture(scope="module")
def step():
  """Compiled once for all."""
  one = training.make_mesh(devices=jax.devices()[:1])
  made = training.make_train_step(
    loss_fn, OPTIMIZER, training.constant_ema(0.5), one
  )
  return one, made, training.skip_nonfinite(made, one)


@pytest.fixture
def train(step, monkeypatch, tmp_path):
  one, plain, careful = step
  monkeypatch.setattr(training, "make_mesh", lambda **_: one)
  monkeypatch.setattr(training, "skip_nonfinite", lambda *_: careful)
  monkeypatch.setattr(fitting, "plot_loss", lambda *_: None)

  def init(key, run_key):
    return training.init_state({"w": jnp.zeros(())}, OPTIMIZER, run_key)

  def run(**changes):
    config = Config(str(tmp_path), **changes)
    return fitting.fit(config, "made-up", tmp_path, init, lambda mesh: plain)

  return run


def losses(workdir):
  """By step, None where it was skipped."""
  text = (workdir / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  return {line["step"]: line.get("loss") for line in lines}


def test_training_stops_names_the_batch_and_may_go_on(
  source, train, tmp_path, caplog
):
  batch = ", ".join(map(str, STREAM[3]))
  told = rf"loss is nan at step 4 \(examples {batch} of the data set\)"
  for _ in range(2):
    with pytest.raises(
      FloatingPointError, match=f"^{told}; last good checkpoint: step 2$"
    ):
      train()
    assert list(losses(tmp_path)) == [1, 2, 3]
  train(on_nan="skip")
  found = losses(tmp_path)
  assert list(found) == list(range(1, 9))
  bad = [n + 1 for n, batch in enumerate(STREAM) if BAD in batch]
  assert [n for n, loss in found.items() if loss is None] == bad
  records = [r for r in caplog.records if "skipped" in r.getMessage()]
  assert len(records) == len(bad)
  assert re.match(f"{told}; the step is skipped$", records[0].getMessage())
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == [n for n in found if n not in bad]
  assert rows[-1]["skipped"] == len([n for n in bad if n < rows[-1]["step"]])
  assert np.isfinite(training.restore_params(tmp_path / "checkpoints")["w"])


def test_an_example_that_cannot_be_read(source, train, tmp_path):
  source.unreadable = index = STREAM[2][1]
  with pytest.raises(OSError, match=rf"^example {index}: .*Input/output error"):
    train()
  # What was trained before it is not lost.
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
