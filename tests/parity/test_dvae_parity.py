"""DALL-E's discrete autoencoder against the original."""

import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from seeded_weights import seeded_state

from jaxgen.convert import dalle_dvae
from jaxgen.nn.dvae import Decoder, Encoder, tokens_of

STORED = np.load(Path(__file__).parents[1] / "data/dalle_dvae.npz")
NETWORKS = {
  "encoder": (Encoder(64, num_tokens=512), STORED["x"]),
  "decoder": (Decoder(64), STORED["z"]),
}


def original_state(name):
  shapes = [tuple(s[s > 0].tolist()) for s in STORED[f"{name}_shapes"]]
  names = STORED[f"{name}_names"].tolist()
  return seeded_state(dict(zip(names, shapes, strict=True)), 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs(name):
  network, x = NETWORKS[name]
  state = original_state(name)
  params = dalle_dvae.from_original(state, network)
  found = np.asarray(jax.jit(network.apply)({"params": params}, x))
  error = np.linalg.norm(found - STORED[name]) / np.linalg.norm(STORED[name])
  assert error < 1e-5, error
  if name == "encoder":
    want = STORED[name].argmax(-1)
    np.testing.assert_array_equal(tokens_of(found), want)
  back = dalle_dvae.to_original(params)
  assert back.keys() == state.keys()
  for key, tensor in state.items():
    np.testing.assert_array_equal(back[key], tensor)


def test_a_whole_module_is_read_as_data(tmp_path, monkeypatch):
  """A file like encoder.pkl, whose classes are not there to be imported."""
  torch = pytest.importorskip("torch")
  state = original_state("encoder")
  fake = types.ModuleType("dall_e_encoder")

  class Node(torch.nn.Module):
    pass

  Node.__module__, Node.__qualname__ = fake.__name__, "Node"
  fake.Node = Node
  monkeypatch.setitem(sys.modules, fake.__name__, fake)
  root = Node()
  for name, tensor in state.items():
    *parts, leaf = name.split(".")
    node = root
    for part in parts:
      if part not in node._modules:
        node.add_module(part, Node())
      node = node._modules[part]
    node.register_parameter(leaf, torch.nn.Parameter(torch.from_numpy(tensor)))
  path = tmp_path / "encoder.pkl"
  torch.save(root, path)
  monkeypatch.delitem(sys.modules, fake.__name__)
  network, _ = NETWORKS["encoder"]
  params = dalle_dvae.load(path, network)
  want = dalle_dvae.from_original(state, network)
  jax.tree.map(np.testing.assert_array_equal, params, want)
  torch.save(state["blocks.input.w"].tolist(), path)
  with pytest.raises(ValueError, match="module of PyTorch is wanted, got"):
    dalle_dvae.load(path, network)
