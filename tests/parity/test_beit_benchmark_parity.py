"""Both sides of the benchmark of BEiT compute the same."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import beit_ours, beit_peer
from benchmarks.beit_cases import CASES, quick


@pytest.mark.slow
def test_forward():
  case = quick(CASES["BEiT-B forward, batch 8"])
  ours = np.asarray(beit_ours.prepare(case)())
  theirs = beit_peer.prepare(case)().numpy()
  error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
  assert error < 1e-5


@pytest.mark.slow
def test_pretraining():
  """Losses of four steps: gradients, clipping and AdamW agree."""
  case = quick(CASES["BEiT-B pre-training step, batch 4"])._replace(batch=8)
  ours, theirs = beit_ours.prepare(case), beit_peer.prepare(case)
  losses = [(float(ours()), float(theirs())) for _ in range(4)]
  np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-4)
  assert losses[3][0] < losses[0][0] - 0.1


@pytest.mark.slow
def test_flops_are_pytorchs():
  """Of the whole network; XLA also counts what is not a product."""
  torch = pytest.importorskip("torch")
  from torch.utils.flop_counter import FlopCounterMode

  case = CASES["BEiT-B forward, batch 8"]._replace(batch=1)
  model = beit_peer.network(case).eval()
  model.set_attn_implementation("eager")  # whose products are counted
  with FlopCounterMode(display=False) as counter, torch.no_grad():
    model(torch.zeros(1, 3, 224, 224))
  assert 1 <= beit_ours.flops(case) / counter.get_total_flops() < 1.05
