"""Both sides of the benchmark of Stable Diffusion 1 compute the same."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from benchmarks import sd1_ours, sd1_peer
from benchmarks.sd1_cases import CASES, GPU_CASES, quick


@pytest.mark.slow
@pytest.mark.parametrize("name", GPU_CASES)
def test_they_agree(name):
  case = quick(CASES[name])._replace(batch=2)
  ours = np.asarray(sd1_ours.prepare(case)())
  theirs = sd1_peer.to_numpy(sd1_peer.prepare(case)())
  if case.kind == "txt2img":
    ours = np.clip(ours / 2 + 0.5, 0, 1)
  error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
  assert error < 1e-4


@pytest.mark.slow
def test_flops_are_pytorchs():
  """Of the whole network, but for what needs no computing.

  XLA leaves out products with padding, and our upsampling is folded into the
  convolution after it: 6% in all.
  """
  torch = pytest.importorskip("torch")
  import diffusers
  from torch.utils.flop_counter import FlopCounterMode

  from jaxgen.convert import sd1_folder

  case = CASES["U-Net forward, batch 8, 512x512"]._replace(batch=1)
  with torch.device("meta"):
    options = sd1_folder.unet_config(case.networks.unet)
    unet = diffusers.UNet2DConditionModel(**options)
    args = torch.zeros(2, 4, 64, 64), 500, torch.zeros(2, 77, 768)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
      unet(*args)
  assert 0.92 < sd1_ours.flops(case) / counter.get_total_flops() < 0.98
