"""Checkpoints as ermongroup/ddim and pesser/pytorch_diffusion write them."""

import numpy as np
import pytest
import torch
from random_inception import random_state

from jaxgen.convert import ddpm
from jaxgen.nn.ddpm_unet import UNet

SHAPES = {"a.weight": (2, 3), "b": (4,)}


def tensors(shapes, seed):
  return {
    name: torch.from_numpy(x) for name, x in random_state(shapes, seed).items()
  }


@pytest.fixture(scope="module")
def shapes():
  """Names and shapes of a small network in their layout."""
  import json
  from pathlib import Path

  stored = np.load(Path(__file__).parents[1] / "data" / "ddim.npz")
  return json.loads(str(stored["shapes"]))


UNET = UNet(32, (1, 2), 1, attention_resolutions=(16,), dropout=0.0)


def assert_is(loaded, shapes, seed):
  unet, params = loaded
  assert unet == UNET
  want = ddpm.from_original(random_state(shapes, seed), UNET)
  np.testing.assert_array_equal(
    params["conv_in"]["kernel"], want["conv_in"]["kernel"]
  )


def test_a_plain_state_dictionary(shapes, tmp_path):
  torch.save(tensors(shapes, 0), tmp_path / "ema_diffusion_cifar10_model.ckpt")
  found = ddpm.load(tmp_path / "ema_diffusion_cifar10_model.ckpt")
  assert_is(found, shapes, 0)


def test_a_training_checkpoint_gives_its_average(shapes, tmp_path):
  model = {f"module.{k}": x for k, x in tensors(shapes, 0).items()}
  states = [model, {"state": {}, "param_groups": []}, 3, 1000]
  torch.save(states, tmp_path / "plain.pth")
  torch.save([*states, tensors(shapes, 1)], tmp_path / "ckpt.pth")
  assert_is(ddpm.load(tmp_path / "plain.pth"), shapes, 0)
  assert_is(ddpm.load(tmp_path / "ckpt.pth"), shapes, 1)


def test_other_files_are_refused(tmp_path):
  torch.save({"epoch": 3}, tmp_path / "x.pt")
  with pytest.raises(ValueError, match="does not hold the tensors"):
    ddpm.load(tmp_path / "x.pt")
