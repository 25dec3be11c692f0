"""What a peer in PyTorch tells of itself: versions, where it runs, memory."""

import resource
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def about(package: str) -> dict[str, Any]:
  """What a worker reports of a case, of this peer."""
  kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  memory = 1024 * kilobytes
  where = f"{torch.get_num_threads()} threads"
  if DEVICE == "cuda":
    memory = torch.cuda.max_memory_allocated()
    where = torch.cuda.get_device_name()
  versions = f"torch {torch.__version__}, {package} {version(package)}"
  return {"text": f"{versions}, {where}", "memory": memory}


def synchronised(
  compute: Callable[[], torch.Tensor],
) -> Callable[[], torch.Tensor]:
  """`compute`, which returns when the device has done its work."""

  def run() -> torch.Tensor:
    result = compute()
    if DEVICE == "cuda":
      torch.cuda.synchronize()
    return result

  return run
