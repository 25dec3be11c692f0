"""BEiT's own discrete autoencoder against the original."""

from pathlib import Path

import jax
import numpy as np
import pytest
from seeded_weights import seeded_state

from experiments import tokenizers
from jaxgen.convert import discrete_vae
from jaxgen.nn.dvae import tokens_of
from jaxgen.training.dvae_losses import discrete_vae_loss

STORED = np.load(Path(__file__).parents[1] / "data/discrete_vae.npz")
KL_WEIGHT, TAU = 0.01, 0.8


@pytest.fixture(scope="module")
def state():
  shapes = [tuple(s[s > 0].tolist()) for s in STORED["shapes"]]
  names = STORED["names"].tolist()
  return seeded_state(dict(zip(names, shapes, strict=True)), 0)


@pytest.fixture(scope="module")
def both(state):
  """The encoder's and the decoder's function."""
  encoder, decoder, params = discrete_vae.from_original(state)
  assert (encoder.channels, encoder.num_layers) == (16, 3)
  assert (decoder.code_width, decoder.output_channels) == (12, 3)
  return (
    jax.jit(lambda x: encoder.apply({"params": params["encoder"]}, x)),
    jax.jit(lambda z: decoder.apply({"params": params["decoder"]}, z)),
  )


def assert_close(found, want):
  error = np.linalg.norm(np.asarray(found) - want) / np.linalg.norm(want)
  assert error < 1e-5, error


def test_outputs(both):
  encode, decode = both
  logits = encode(STORED["x"])
  assert_close(logits, STORED["logits"])
  tokens = np.asarray(tokens_of(logits))
  np.testing.assert_array_equal(tokens, STORED["tokens"])
  assert_close(decode(np.eye(24, dtype=np.float32)[tokens]), STORED["decoded"])


def test_losses(both):
  """With the original's noise; its KL is a sum over the three images."""
  encode, decode = both
  logits = encode(STORED["x"])
  soft = decode(jax.nn.softmax((logits + STORED["gumbel"]) / TAU))
  assert_close(soft, STORED["soft"])
  for smooth_l1, want in enumerate(STORED["losses"]):
    loss, parts = discrete_vae_loss(
      STORED["x"], soft, logits, 3 * KL_WEIGHT, bool(smooth_l1)
    )
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert set(parts) == {"error", "kl"}


def test_conversion_round_trips_and_is_strict(state):
  _, _, params = discrete_vae.from_original(state)
  back = discrete_vae.to_original(params)
  assert back.keys() == state.keys()
  for name, tensor in state.items():
    np.testing.assert_array_equal(back[name], tensor)
  with pytest.raises(ValueError, match=r"unused: decoder\.7\.weight"):
    discrete_vae.from_original({**state, "decoder.7.weight": np.ones(3)})
  with pytest.raises(ValueError, match=r"no encoder\.0\.0\.weight and c"):
    discrete_vae.from_original({"codebook.weight": np.ones((3, 3))})


def test_its_file_is_a_tokenizer(state, tmp_path):
  """As the released code reads it: an entry "weights" of pytorch_model.bin."""
  torch = pytest.importorskip("torch")
  tensors = {name: torch.from_numpy(x) for name, x in state.items()}
  torch.save({"weights": tensors}, tmp_path / "pytorch_model.bin")
  found = tokenizers.load(tmp_path)
  assert (found.vocabulary, found.factor, found.channels) == (24, 8, 3)
  tokens = jax.jit(found.encode)(found.params, STORED["x"])
  np.testing.assert_array_equal(tokens, STORED["tokens"].reshape(3, 4))
  images = jax.jit(found.decode)(found.params, tokens)
  np.testing.assert_allclose(
    images, STORED["decoded"].clip(-1, 1), rtol=1e-4, atol=1e-5
  )
  with pytest.raises(ValueError, match=r"square grid of tokens.*\[3, 2\]"):
    found.decode(found.params, tokens[:, :2])
