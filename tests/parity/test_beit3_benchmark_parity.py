"""Both sides of the benchmark of BEiT-3 compute the same."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchscale")

from benchmarks import beit3_ours, beit3_peer
from benchmarks.beit3_cases import CPU_CASES, PAD, quick, texts

NAMES = [name for name in CPU_CASES if "step" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_forward(name):
  case = quick(CPU_CASES[name])
  ours = np.array(beit3_ours.prepare(case)())
  theirs = beit3_peer.prepare(case)().numpy().copy()
  if case.kind == "pairs":  # what stands for padding has no meaning
    padding = texts(case) == PAD
    assert padding.any()
    ours[:, -case.length :][padding] = theirs[:, -case.length :][padding] = 0
  error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
  assert error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["", ", packed"])
def test_pretraining(packed):
  """Losses of four steps: gradients, clipping and AdamW agree."""
  case = quick(CPU_CASES[f"pre-training step, batch 2{packed}"])
  case = case._replace(batch=8)
  ours, theirs = beit3_ours.prepare(case), beit3_peer.prepare(case)
  losses = [(float(ours()), float(theirs())) for _ in range(4)]
  np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-4)
  assert losses[3][0] < losses[0][0]
