"""A training whose data or loss is bad says which example, or goes on."""

import dataclasses
import json
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import fitting
from jaxgen import data, training

N, BAD = 40, 17


@dataclasses.dataclass(frozen=True)
class Config:
  """What `fit` asks of one."""

  workdir: str = ""
  steps: int = 6
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
  white = batch["image"].mean((1, 2, 3)) == 1
  loss = jnp.mean((params["w"] - batch["image"].mean((1, 2))) ** 2)
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

  def init(key, run_key):
    return training.init_state({"w": jnp.zeros(1)}, OPTIMIZER, run_key)

  def run(**changes):
    config = Config(str(tmp_path), **changes)
    return fitting.fit(config, "made-up", tmp_path, init, lambda mesh: plain)

  return run


def steps_with(example):
  """The steps, from 1, whose batch has an example, and those batches."""
  stream = np.stack([data.batch_examples(N, 8, 0, n) for n in range(8)])
  return [n + 1 for n in range(8) if example in stream[n]], stream


def test_training_stops_and_names_the_batch(source, train, tmp_path):
  (first, *_), stream = steps_with(BAD)
  names = ", ".join(map(str, stream[first - 1]))
  good = 2 * ((first - 1) // 2)
  good = f"step {good}" if good else "none was saved"
  with pytest.raises(
    FloatingPointError,
    match=rf"loss is nan at step {first} \(examples {names} of the data set\); "
    rf"last good checkpoint: {good}$",
  ):
    train(steps=8)
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == first - 1
  assert all(
    np.isfinite(training.restore_params(tmp_path / "checkpoints")["w"])
    for _ in range(good != "none was saved")
  )


def test_training_skips_and_goes_on(source, train, tmp_path, caplog):
  """With the run that stopped there, or from the start."""
  bad, _ = steps_with(BAD)
  with pytest.raises(FloatingPointError):
    train(steps=8)
  train(steps=8, on_nan="skip")
  found = [
    json.loads(line)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  assert [line["step"] for line in found] == list(range(1, 9))
  assert [line["step"] for line in found if "loss" not in line] == bad
  assert found[-1]["skipped"] == len(bad)
  assert np.isfinite(training.restore_params(tmp_path / "checkpoints")["w"])
  told = [r.getMessage() for r in caplog.records]
  assert sum(
    f"loss is nan at step {n} (ex" in t for n in bad for t in told
  ) == (len(bad))


def test_an_example_that_cannot_be_read(source, train, tmp_path):
  source.unreadable = 5
  (first, *_), _ = steps_with(5)
  with pytest.raises(OSError, match=r"^example 5: .*Input/output error$"):
    train()
  # What was trained before it is not lost; it goes on where it is mended.
  saved = 2 * ((first - 1) // 2)
  folder = tmp_path / "checkpoints"
  assert max((int(p.name) for p in folder.iterdir()), default=0) == saved
