"""The loop that trainings share: what it judges, and where it goes on."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import fitting
from jaxgen import training


@dataclasses.dataclass(frozen=True)
class Config:
  """As of a training."""

  steps: int = 6
  eval_every: int = 2
  save_every: int = 3
  log_every: int = 1
  fsdp: int = 1
  seed: int = 0


class Batches:
  """Batch i is eight times i."""

  def __init__(self):
    self.i = 0

  def __next__(self):
    self.i += 1
    return {"image": np.full((8,), self.i, np.float32)}

  def get_state(self):
    return {"i": self.i}

  def set_state(self, state):
    self.i = state["i"]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
  monkeypatch.setattr(fitting, "plot_loss", lambda metrics, path: None)


def train(workdir, evaluate=None, stream=Batches, **changes):
  """A parameter that each step leads half way to the batch's number."""
  optimizer = optax.sgd(0.25)

  def loss(params, key, batch):
    return jnp.square(params["w"] - batch["image"].mean())

  def init(key, run_key):
    return training.init_state({"w": jnp.zeros(())}, optimizer, run_key)

  def step(mesh):
    return training.make_train_step(
      loss, optimizer, training.constant_ema(0.0), mesh
    )

  config = Config(**changes)
  batches = lambda config: stream()
  fitting.fit(
    config, "toy", workdir, init, step, batches=batches, evaluate=evaluate
  )


def text(workdir, name):
  return (workdir / name).read_text()


def test_a_state_is_judged_every_so_many_steps(tmp_path):
  """w of step n is (w + n) / 2; the metrics do not know of the judgement."""
  train(tmp_path / "plain")
  assert not (tmp_path / "plain" / "evaluations.jsonl").exists()
  train(tmp_path / "judged", lambda state: {"w": float(state.params["w"])})
  w, want = 0.0, []
  for n in range(1, 7):
    w = (w + n) / 2
    want += [{"step": n, "w": w}] if n % 2 == 0 else []
  found = text(tmp_path / "judged", "evaluations.jsonl").splitlines()
  assert [json.loads(line) for line in found] == want
  both = [text(tmp_path / n, "metrics.jsonl") for n in ("plain", "judged")]
  assert both[0] == both[1]


def test_a_run_that_was_killed_is_judged_as_one_that_was_not(tmp_path):
  """It dies in its third evaluation, after the checkpoint of step 3."""
  evaluate = lambda state: {"w": float(state.params["w"])}

  def kill(state):
    if int(state.step) == 6:
      raise KeyboardInterrupt
    return evaluate(state)

  train(tmp_path / "whole", evaluate)
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path / "killed", kill)
  steps = [path.name for path in (tmp_path / "killed/checkpoints").iterdir()]
  assert steps == ["3"]
  assert len(text(tmp_path / "killed", "evaluations.jsonl").splitlines()) == 2
  train(tmp_path / "killed", evaluate)
  for name in ("evaluations.jsonl", "metrics.jsonl"):
    whole, killed = (text(tmp_path / n, name) for n in ("whole", "killed"))
    assert whole == killed


def test_nothing_is_judged_that_is_not_finite(tmp_path):
  judged = []

  def evaluate(state):
    judged.append(int(state.step))
    return {}

  class Diverging(Batches):
    """Infinite from the third on."""

    def __next__(self):
      batch = super().__next__()
      return {"image": batch["image"] * (np.inf if self.i > 2 else 1)}

  with pytest.raises(FloatingPointError, match="at step 3"):
    train(tmp_path, evaluate, Diverging, log_every=100)
  assert judged == [2]
