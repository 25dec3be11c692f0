"""What BEiT-3's trainings for tasks share."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import results
from experiments.beit3 import config as configs
from experiments.beit3 import model
from experiments.beit3.batches import read_tokenizer
from experiments.fitting import fit
from experiments.models import restore_run
from experiments.results import Claim
from jaxgen import data, training
from jaxgen.convert import beit3 as released
from jaxgen.training.layer_decay import layer_decay_adamw, warmed_up_cosine
from jaxgen.types import Array, Key, PyTree

SMALL_ROWS = ("small, from scratch", "small, pre-trained")
Loss = Callable[[PyTree, Key, Any], tuple[Array, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Task:
  """One of the tasks.

  Attributes:
    name: in the names of workdirs.
    kind: its class of configurations.
    configs: those that have a name.
    network: configuration -> the network.
    head: the last layers, whose rate is multiplied by `head_rate`.
  """

  name: str
  kind: Callable[..., Any]
  configs: Mapping[str, Any]
  network: Callable[[Any], Any]
  head: tuple[str, ...] = ()

  @property
  def experiment(self) -> str:
    """The name in checkpoints."""
    return f"beit3_{self.name}"


class Tuned(NamedTuple):
  """A network of a task.

  Attributes:
    config: of its training.
    params: its parameters.
    tokenizer: of its texts.
  """

  config: Any
  params: PyTree
  tokenizer: data.TextTokenizer


def train(
  task: Task,
  config: Any,
  texts: Any,
  step: Callable[[Mesh], training.TrainStep],
  keep: Sequence[str],
  batches: Callable[[Any, data.TextTokenizer], Any],
) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Args:
    task: what is trained for.
    config: of the training.
    texts: to learn a tokenizer from, if none is given: its `texts()`.
    step: mesh -> the compiled step.
    keep: what of a batch the step is given.
    batches: configuration and tokenizer -> the endless stream.

  Returns:
    The workdir, with checkpoints/, tokenizer.json, metrics.jsonl and loss.png.
  """
  workdir = workdir_of(task, config)
  other = Path(config.init) if model.is_run(config.init) else None
  tokenizer = read_tokenizer(config, workdir, texts, other)
  return fit_task(
    task, config, step, keep, lambda config: batches(config, tokenizer)
  )


def fit_task(
  task: Task,
  config: Any,
  step: Callable[[Mesh], training.TrainStep],
  keep: Sequence[str],
  batches: Callable[[Any], Any],
) -> Path:
  """`train` for a task without texts; batches are of a configuration alone."""

  def init(key: Key, run_key: Key) -> training.TrainState:
    params = model.init_network(config, task.network(config), key)
    return training.init_state(params, make_optimizer(task, config), run_key)

  return fit(
    config,
    task.experiment,
    workdir_of(task, config),
    init,
    step,
    keep=keep,
    batches=batches,
  )


def started(config: Any) -> Any:
  """The configuration to train, other processes joined."""
  training.initialize_distributed()
  return configs.smoke(config) if config.smoke else config


def workdir_of(task: Task, config: Any) -> Path:
  """Where a training keeps what it makes."""
  return Path(config.workdir or f"runs/beit3-{task.name}-{config.name}")


def make_optimizer(task: Task, config: Any) -> optax.GradientTransformation:
  """AdamW with smaller rates for earlier layers, or a larger one for the head.

  The released code has either. The head's rate is the larger for its step and
  for its weight decay.
  """
  rate = warmed_up_cosine(
    config.lr, config.min_lr, config.warmup, config.decay_steps
  )
  adamw = layer_decay_adamw(
    rate,
    config.num_layers,
    decay=config.layer_decay,
    weight_decay=config.weight_decay,
    b2=config.b2,
  )
  if not task.head:
    return adamw

  def scale(updates, state, params=None):
    del params
    larger = lambda u: u * config.head_rate
    return {
      name: jax.tree.map(larger, part) if name in task.head else part
      for name, part in updates.items()
    }, state

  head = optax.GradientTransformation(lambda _: optax.EmptyState(), scale)
  return optax.chain(adamw, head)


def make_step(
  task: Task, loss: Loss, config: Any, mesh: Mesh
) -> training.TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`."""
  return training.make_train_step(
    loss,
    make_optimizer(task, config),
    training.constant_ema(0.0),
    mesh,
    # Not of retrieval, whose loss compares the whole batch.
    accumulate=getattr(config, "accumulate", 1),
  )


def load(task: Task, weights: str, **changes: Any) -> Tuned:
  """A trained network of a task, with the tokenizer of its texts.

  Args:
    task: the task.
    weights: see `load_params`.
    **changes: see `load_params`.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: see `load_params`; or a file comes without `spm`.
  """
  config, params = load_params(task, weights, **changes)
  path = Path(weights) / "tokenizer.json"
  if path.is_file():
    return Tuned(config, params, data.load_tokenizer(path))
  if not config.spm:
    raise ValueError(f"{weights} needs --spm, the published beit3.spm")
  tokenizer = data.beit3_tokenizer(config.spm, config.max_length)
  return Tuned(config, params, tokenizer)


def load_params(task: Task, weights: str, **changes: Any) -> tuple[Any, PyTree]:
  """The configuration and the parameters of a trained network of a task.

  Args:
    task: the task.
    weights: a workdir of its training, or NAME:FILE, a released .pth file and
      the configuration of `task.configs` that it is of.
    **changes: fields of the configuration to change, where they are not empty.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: it is of another task, or damaged.
  """
  changes = {name: value for name, value in changes.items() if value}
  name, _, file = weights.partition(":")
  if (Path(weights) / "checkpoints").is_dir() or not file:
    path = Path(weights)
    model.check_run(path, task.experiment, f"training of {task.name}")
    config, params = restore_run(path, task.kind)
    return dataclasses.replace(config, **changes), params
  if name not in task.configs:
    raise ValueError(
      f"{task.name} has no configuration {name!r}; it has "
      f"{', '.join(task.configs)}"
    )
  config = dataclasses.replace(task.configs[name], init=file, **changes)
  network = task.network(config)
  return config, released.load(file, network, config.image_size)


def predict(
  apply: Callable[[PyTree, dict[str, Array]], PyTree],
  params: PyTree,
  batches: Any,
) -> Any:
  """What a network makes of batches, one after another, without the filling.

  Args:
    apply: (parameters, batch) -> arrays `[B, ...]`, jitted here.
    params: the network's.
    batches: as of `jaxgen.data.eval_batches`.

  Yields:
    A batch's arrays, cut to its examples, and what the network made of it.
  """
  mesh = training.make_mesh()
  params = training.shard_state(mesh, params)
  apply = jax.jit(apply)
  for batch in batches:
    placed = training.shard_batch(mesh, batch)
    real = batch["mask"]
    cut = lambda x, real=real: np.asarray(x)[real]
    yield jax.tree.map(cut, batch), jax.tree.map(cut, apply(params, placed))


def fields_of(config: Any) -> dict[str, Any]:
  """A configuration for a result file, without this machine's folders."""
  fields = dataclasses.asdict(config)
  for name in ("init", "spm"):
    if name in fields:
      fields[name] = Path(fields[name]).name
  kind, _, root = config.dataset.partition(":")
  return fields | ({"dataset": kind} if root else {})


def save(
  workdir: Path, config: Any, seconds: float, found: Mapping[str, float]
) -> None:
  """Writes result.json: what was measured, and what was trained."""
  content = {
    **found,
    "config": dataclasses.asdict(config),
    "seconds": seconds,
    "device": results.device(),
    "commit": results.commit(),
  }
  path = write_json(workdir / "result.json", content)
  numbers = ", ".join(f"{name} {value:.5g}" for name, value in found.items())
  print(f"{numbers}: {path}")


def write_json(path: Path, content: Any) -> Path:
  """Writes a file, and makes its folder."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content) + "\n")
  return path


def row_of(config: Any, rows: Mapping[str, str]) -> str:
  """The row of a table that a network belongs to.

  Args:
    config: of the network.
    rows: those of named configurations; others are small.
  """
  small = SMALL_ROWS[1] if config.init else SMALL_ROWS[0]
  return rows.get(config.name, small)


def small_claim(what: str, column: str) -> Claim:
  """That small networks profit from pre-training."""
  text = f"masked data modelling helps {what}"
  return Claim(text, *((row, column) for row in SMALL_ROWS))
