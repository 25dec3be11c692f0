"""Both sides of the benchmark compute the same thing."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from benchmarks import ours, peer
from benchmarks.cases import Case

TINY = Case("", 8, 5, widths=(32, 64), dropout=0.0)  # attention at 16 x 16


def both(case):
  found = np.asarray(ours.prepare(case)())
  theirs = peer.prepare(case)().numpy()
  if theirs.ndim == 4:
    theirs = theirs.transpose(0, 2, 3, 1)
  return found, theirs


@pytest.mark.slow
def test_networks_and_samplers_agree():
  found, theirs = both(TINY._replace(kind="ddim"))
  error = np.linalg.norm(found - theirs) / np.linalg.norm(theirs)
  assert error < 1e-4


def test_bounds_agree():
  """Up to their noise, which is averaged over 50 terms and 3072 dimensions."""
  found, theirs = both(TINY._replace(kind="bound", steps=50, trivial=True))
  np.testing.assert_allclose(found, theirs, rtol=0.03)
  assert found.mean() == pytest.approx(theirs.mean(), rel=0.01)
