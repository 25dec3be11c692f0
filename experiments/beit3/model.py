"""From a configuration to the networks, and from a run or a file to weights."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.beit3.config import TRUNK, Pretrain
from experiments.models import restore_run
from jaxgen import training
from jaxgen.convert import beit3 as released
from jaxgen.messages import shown
from jaxgen.nn.beit3 import Beit3
from jaxgen.nn.beit3_tasks import ImageClassifier, VisualReasoning
from jaxgen.types import Array, Key, PyTree


def make_trunk(config: Any) -> Beit3:
  """The trunk of a configuration."""
  fields = {n: getattr(config, n) for n in TRUNK if hasattr(config, n)}
  return Beit3(
    **fields,
    drop_path=config.drop_path,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
  )


def is_run(init: str) -> bool:
  """Whether weights are those of a run of ours."""
  return (Path(init) / "checkpoints").is_dir()


def init_network(config: Any, network: Any, key: Key) -> PyTree:
  """The parameters that a task starts from, the trunk's those of `init`.

  Args:
    config: of the task.
    network: a trunk with a head.
    key: of the parameters that are new.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: `init` holds another network, or something else.
  """
  inputs = sample_inputs(config, network)
  params = jax.jit(network.init)(key, *inputs)["params"]
  if not config.init:
    return params
  wanted = params["trunk"]
  return params | {
    "trunk": pretrained_trunk(config, network.trunk, config.image_size, wanted)
  }


def pretrained_trunk(
  config: Any, trunk: Beit3, image_size: int, wanted: PyTree
) -> PyTree:
  """The trunk of `config.init`, for images of another size.

  Args:
    config: has `init`, and `init_size` for a released file.
    trunk: of the network.
    image_size: height and width of its images.
    wanted: what it has, arrays or their shapes.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: `init` holds another network, or something else.
  """
  if is_run(config.init):
    path = Path(config.init)
    check_run(path, "beit3_pretrain", "pre-training of BEiT-3")
    old, weights = restore_run(path, Pretrain)
    found, size = weights["trunk"], old.image_size
  else:
    size = config.init_size
    found = released.load(config.init, trunk, size)
  found = released.resize(found, trunk, size, image_size)
  # What the task has no use for, such as the experts of pairs, ends here.
  return jax.tree.map(jnp.array, _part(found, wanted, config.init))


def sample_inputs(config: Any, network: Any) -> tuple[Array, ...]:
  """Inputs of the shapes that a network takes, for one example."""
  x = jnp.zeros((1, *[config.image_size] * 2, 3))
  if isinstance(network, ImageClassifier):
    return (x,)
  tokens = jnp.zeros((1, config.max_length), int)
  if isinstance(network, VisualReasoning):
    return x, x, tokens
  return x, tokens


def check_run(path: Path, experiment: str, kind: str) -> None:
  """Refuses a workdir of another experiment.

  Raises:
    ValueError: it is of another.
  """
  found = training.restore_experiment(path / "checkpoints")["experiment"]
  if found != experiment:
    raise ValueError(f"{path} holds {shown(found)}, not a {kind}")


def _part(found: PyTree, wanted: PyTree, source: str, at: str = "") -> PyTree:
  """What is wanted of a tree that may have more."""
  part = {}
  for name, leaf in wanted.items():
    place = f"{at}/{name}".lstrip("/")
    there = found.get(name)
    if isinstance(leaf, dict) and isinstance(there, dict):
      part[name] = _part(there, leaf, source, place)
    elif there is None or there.shape != leaf.shape:
      shape = "absent" if there is None else there.shape
      raise ValueError(
        f"{source} does not fit the network: {place} is {shape} there and "
        f"{leaf.shape} here"
      )
    else:
      part[name] = there
  return part
