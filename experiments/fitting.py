"""The loop that all trainings share.

A `train.py` says what is trained: how the state starts and what a step does.
Here is how a run is carried out: on a mesh, over an endless stream of batches,
with a log, checkpoints, and an end that loses nothing.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.models import CROPS
from experiments.plots import plot_loss
from jaxgen import data, training
from jaxgen.types import Key

# State -> names and numbers, the same for every process.
Evaluate = Callable[[training.TrainState], Mapping[str, float]]
# Fields of every configuration that may change when a run is continued.
RUN_FIELDS = (
  "steps",
  "dtype",
  "remat",
  "fsdp",
  "tensor",
  "accumulate",
  "workdir",
  "data_dir",
  "save_every",
  "log_every",
  "eval_every",
  "num_workers",
  "cache_latents",
  "on_nan",
)


def image_batches(config: Any) -> Any:
  """The stream of images, and labels, that a configuration names."""
  return data.train_batches(
    data.load(config.dataset, config.split, config.data_dir or None),
    config.batch_size,
    config.image_size,
    config.seed,
    flip=config.flip,
    crop=CROPS[getattr(config, "crop", "center")],
    num_workers=config.num_workers,
  )


def image_examples(config: Any, step: int) -> np.ndarray:
  """The indices, in the split, of the examples that a step is given.

  Of any stream by `train_batches` of the configuration's data set, batch size
  and seed: step n takes batch n - 1.
  """
  source = data.load(config.dataset, config.split, config.data_dir or None)
  return data.batch_examples(
    len(source), config.batch_size, config.seed, step - 1
  )


def fit(
  config: Any,
  experiment: str,
  workdir: Path,
  init: Callable[[Key, Key], training.TrainState],
  step: Callable[[Mesh], training.TrainStep],
  *,
  keep: Sequence[str] = ("image",),
  batches: Callable[[Any], Any] = image_batches,
  examples: Callable[[Any, int], np.ndarray] | None = None,
  evaluate: Evaluate | None = None,
) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  On SIGTERM it saves and leaves the process. Where there are several, they must
  have been joined (`initialize_distributed`) before anything is computed; if
  one is lost, the others end (`leave_with_the_lost`). A loss that is not finite
  ends training, or, with `config.on_nan` = "skip", costs its step.

  Args:
    config: of the experiment.
    experiment: its name, for the checkpoints.
    workdir: gets checkpoints/, metrics.jsonl and loss.png.
    init: (key of the parameters, key of the run) -> the first state.
    step: mesh -> the compiled step, as of `make_train_step`.
    keep: what of a batch the step is given.
    batches: configuration -> an endless iterator that can be checkpointed.
    examples: (configuration, step) -> the indices of the examples that the step
      was given; by default those of `image_batches`, where that is `batches`.
    evaluate: judges the state every `config.eval_every` steps, into
      evaluations.jsonl; it may not change it.

  Returns:
    The workdir.
  """
  tensor = getattr(config, "tensor", 1)
  mesh = training.make_mesh(fsdp=config.fsdp, tensor=tensor)
  train_step = step(mesh)
  if getattr(config, "on_nan", "stop") == "skip":
    train_step = training.skip_nonfinite(train_step, mesh)
  if examples is None and batches is image_batches:
    examples = image_examples
  fields = {"experiment": experiment, **dataclasses.asdict(config)}
  with (
    training.stop_on_sigterm() as stop,
    training.Checkpoints(
      workdir / "checkpoints", fields, may_change=RUN_FIELDS
    ) as checkpoints,
    training.leave_with_the_lost(),
  ):
    stream = batches(config)
    state = init(*jax.random.split(jax.random.key(config.seed)))
    state = training.shard_state(mesh, state)
    state = checkpoints.restore(state, stream)
    steps = range(int(state.step) + 1, config.steps + 1)
    log = training.Log(
      workdir / "metrics.jsonl",
      checkpoints,
      steps,
      config.log_every,
      examples=examples and partial(examples, config),
    )
    with log, _evaluations(workdir, evaluate, steps.start - 1) as judge:
      for n in steps:
        batch = next(stream)
        batch = training.shard_batch(mesh, {name: batch[name] for name in keep})
        state, metrics = train_step(state, batch)
        log(n, metrics)
        # Before a checkpoint is saved, so that none is newer than the file.
        if judge and n % config.eval_every == 0:
          log.flush()  # nothing is judged that is not finite
          judge(n, state)
        stopping = stop(n)
        if stopping or n % config.save_every == 0 or n == config.steps:
          log.flush()
          checkpoints.save(state, stream)
        if stopping:
          break
  if int(state.step) < config.steps:  # SIGTERM
    sys.exit(0)
  if jax.process_index() == 0:
    plot_loss(workdir / "metrics.jsonl", workdir / "loss.png")
    print(f"trained to step {config.steps}: {workdir}")
  return workdir


@contextlib.contextmanager
def _evaluations(
  workdir: Path, evaluate: Evaluate | None, step: int
) -> Iterator[Callable[[int, training.TrainState], None] | None]:
  """What judges a state and adds a line to evaluations.jsonl, after `step`."""
  if evaluate is None:
    yield None
    return
  writer = None
  if jax.process_index() == 0:
    writer = training.MetricsWriter(workdir / "evaluations.jsonl", step)

  def judge(n: int, state: training.TrainState) -> None:
    found = evaluate(state)
    if writer is not None:
      writer.write(n, found)

  try:
    yield judge
  finally:
    if writer is not None:
      writer.close()
