"""Noise levels that published checkpoints hold beside their weights."""

import numpy as np


def check_sigmas(sigmas: np.ndarray, wanted: np.ndarray) -> None:
  """Raises ValueError where a checkpoint's levels are not the network's.

  Args:
    sigmas: the checkpoint's `[N]`, in single precision.
    wanted: the network's `[N]`.
  """
  if sigmas.shape == wanted.shape and np.allclose(sigmas, wanted, rtol=1e-4):
    return
  found, expected = (
    f"{x.size} from {x.max():g} to {x.min():g}" for x in (sigmas, wanted)
  )
  raise ValueError(
    f"The checkpoint has noise levels {found}, the network {expected}."
  )
