"""What is measured of score SDEs: sizes that jaxgen and its peer share."""

from typing import NamedTuple


class Case(NamedTuple):
  """One comparison.

  Attributes:
    kind: "pc", reverse diffusion with one Langevin step, or "likelihood".
    sde: "ve" or "vp".
    batch: images at a time.
    steps: of "pc".
    tolerance: of "likelihood", rtol and atol.
    size: height and width of the colour images.
    width: channels of the network's hidden layer.
    snr: of the corrector.
  """

  kind: str
  sde: str
  batch: int = 8
  steps: int = 1000
  tolerance: float = 1e-5
  size: int = 32
  width: int = 16
  snr: float = 0.16


CASES = {
  "VE, 1000 steps of PC": Case("pc", "ve"),
  "VP, 1000 steps of PC": Case("pc", "vp", snr=0.01),
  "VE, likelihood": Case("likelihood", "ve"),
  "VP, likelihood": Case("likelihood", "vp"),
}


def quick(case: Case) -> Case:
  """The same case in seconds: numbers without meaning."""
  return case._replace(batch=2, steps=5, tolerance=1e-2, size=8, width=4)


def weights(case: Case) -> dict:
  """The network's weights as numpy arrays, the same on both sides.

  score(x, t) = (conv(tanh(conv(x / s))) / 10 - x / s) / s with
  s = sqrt(1 + sigma_t^2): near a Gaussian's, so that the ODE is not stiff.
  Kernels are HWIO.
  """
  import numpy as np

  rng = np.random.default_rng(0)
  shapes = ((3, 3, 3, case.width), (3, 3, case.width, 3))
  first, second = (
    (rng.standard_normal(shape) / np.sqrt(9 * shape[2])).astype(np.float32)
    for shape in shapes
  )
  return {"first": first, "second": second}
