"""FID's Inception weights: the published file <-> parameters of `Inception`.

The file is PyTorch's port of TensorFlow's graph of 2015-12-05, which
pytorch-fid and torch-fidelity publish under different names.
"""

import contextlib
import hashlib
import os
import urllib.request
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.convert.state import ParamPath, State, fill, to_torch
from jaxgen.convert.torch_files import read_state
from jaxgen.nn.inception import Inception
from jaxgen.types import PyTree

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = (
  "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
  + WEIGHTS_FILE
)
_SHA256_START = "6726825d"

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def load(path: str | Path | None = None) -> PyTree:
  """The parameters of `Inception` that FID is defined by.

  Args:
    path: a file with the weights, .pth or .safetensors. By default the
      published one, from `weights_path()`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged or does not hold these weights.
    OSError: if the published file is needed and cannot be downloaded.
  """
  return from_state(read_state(weights_path() if path is None else path))


def weights_path() -> Path:
  """The published file, downloaded once.

  It lies in the directory that the environment variable JAXGEN_CACHE names,
  by default ~/.cache/jaxgen.

  Raises:
    OSError: if it cannot be downloaded.
    ValueError: if what arrives is another file.
  """
  folder = os.environ.get("JAXGEN_CACHE") or Path.home() / ".cache" / "jaxgen"
  path = Path(folder) / WEIGHTS_FILE
  if not path.exists():
    _download(WEIGHTS_URL, path)
  return path


def from_state(state: State) -> PyTree:
  """Parameters of `Inception` from the tensors of the PyTorch port.

  Batch normalisation's counters `num_batches_tracked`, which only training
  uses and not every file has, are left out.

  Raises:
    ValueError: if a tensor is missing, unused or of the wrong shape.
  """
  template = _template()
  names = {_name(path) for path in flatten_dict(template)}
  mean, counter = ".bn.running_mean", ".bn.num_batches_tracked"
  counters = {
    name.replace(mean, counter) for name in names if name.endswith(mean)
  }
  return fill(
    template, _name, {k: x for k, x in state.items() if k not in counters}
  )


def to_state(params: PyTree) -> dict[str, np.ndarray]:
  """The tensors of the PyTorch port; inverse of `from_state`."""
  return {
    _name(path): to_torch(leaf) for path, leaf in flatten_dict(params).items()
  }


def _name(path: ParamPath) -> str:
  *modules, leaf = path
  return ".".join([*modules, _LEAVES[leaf]])


def _template() -> PyTree:
  x = jnp.zeros((1, 299, 299, 3))
  return jax.eval_shape(Inception().init, jax.random.key(0), x)["params"]


def _download(url: str, path: Path) -> None:
  """Fetches the file whole or not at all."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  digest = hashlib.sha256()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
      urllib.request.urlopen(url, timeout=60) as response,
      _with_progress(response, path.name) as source,
      open(temporary, "wb") as out,
    ):
      while chunk := source.read(1 << 20):
        digest.update(chunk)
        out.write(chunk)
    if not digest.hexdigest().startswith(_SHA256_START):
      raise ValueError(
        f"{url} gave a file of SHA-256 {digest.hexdigest()}, wanted "
        f"{_SHA256_START}..."
      )
    os.replace(temporary, path)
  except (OSError, HTTPException) as error:
    raise OSError(
      f"Cannot download {url} ({error}): put the file yourself at {path}."
    ) from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def _with_progress(response: Any, name: str) -> AbstractContextManager[Any]:
  """The response, reading which moves a bar if rich is installed."""
  try:
    from rich.progress import wrap_file
  except ImportError:
    return contextlib.nullcontext(response)
  size = int(response.headers.get("Content-Length", 0))
  return wrap_file(response, size, description=name)
