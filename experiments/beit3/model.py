"""From a configuration to the networks, and from a run or a file to weights."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.beit3.config import TRUNK, Pretrain, Retrieval
from experiments.models import restore_run
from jaxgen import training
from jaxgen.convert import beit3 as released
from jaxgen.nn.beit3 import Beit3
from jaxgen.nn.beit3_tasks import Retrieval as DualEncoder
from jaxgen.types import Key, PyTree


def make_trunk(config: Any) -> Beit3:
  """The trunk of a configuration."""
  fields = {name: getattr(config, name) for name in TRUNK}
  return Beit3(
    **fields,
    drop_path=config.drop_path,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
  )


def is_run(init: str) -> bool:
  """Whether weights are those of a run of ours."""
  return (Path(init) / "checkpoints").is_dir()


def init_dual_encoder(config: Retrieval, key: Key) -> PyTree:
  """The parameters that retrieval starts from, the trunk's those of `init`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: `init` holds another network, or something else.
  """
  network = DualEncoder(make_trunk(config))
  x = jnp.zeros((1, *[config.image_size] * 2, 3))
  tokens = jnp.zeros((1, config.max_length), int)
  params = jax.jit(network.init)(key, x, tokens)["params"]
  if not config.init:
    return params
  if is_run(config.init):
    path = Path(config.init)
    found = training.restore_experiment(path / "checkpoints")["experiment"]
    if found != "beit3_pretrain":
      raise ValueError(f"{path} holds {found}, not a pre-training of BEiT-3")
    old, weights = restore_run(path, Pretrain)
    trunk, size = weights["trunk"], old.image_size
  else:
    size = config.init_size
    trunk = released.load(config.init, network.trunk, size)
  trunk = released.resize(trunk, network.trunk, size, config.image_size)
  wanted = params["trunk"]
  # The experts of pairs, and the mask token's use, end with pre-training.
  trunk = _part(trunk, wanted, config.init)
  return params | {"trunk": jax.tree.map(jnp.array, trunk)}


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
