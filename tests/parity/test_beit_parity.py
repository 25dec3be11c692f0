"""BEiT's networks against transformers', with the same random weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.convert import beit, beit_files, positions
from jaxgen.convert.state import read_safetensors
from jaxgen.nn.beit import Beit, Classifier, MaskedImageModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
  "hidden_size": 32,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "intermediate_size": 64,
  "image_size": 32,
  "patch_size": 8,
  "layer_norm_eps": 1e-6,
  "vocab_size": 16,
  "num_labels": 5,
  "drop_path_rate": 0.0,
}
TINY = Beit(8, 32, 3, 4, 64)


def randomised(model):
  """Every parameter drawn: zeros and ones would hide mistakes."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for p in model.parameters():
      p.copy_(0.3 * torch.randn(p.shape, generator=generator))
  return model.eval()


def exchanged(model, network, directory):
  """transformers' own file of the model, as parameters."""
  model.save_pretrained(directory)
  state = read_safetensors(directory / "model.safetensors")
  params = beit.from_transformers(state, network, 32)
  back = beit.to_transformers(params)
  assert back.keys() == state.keys()
  for name, tensor in state.items():
    np.testing.assert_array_equal(back[name], tensor, err_msg=name)
  holds(directory, network, params)
  return params


def holds(path, network, params):
  """The file or folder tells its network itself."""
  found, same, size = beit_files.read(path)
  assert (found, size) == (network, 32)
  jax.tree.map(np.testing.assert_array_equal, same, params)


def close(found, want):
  want = want.detach().numpy()
  error = np.linalg.norm(found - want) / np.linalg.norm(want)
  assert error < 1e-5, error


IMAGES = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
PIXELS = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("kind", ["shared", "absolute"])
def test_masked_image_model(kind, tmp_path):
  config = transformers.BeitConfig(
    **SIZES,
    use_mask_token=True,
    use_shared_relative_position_bias=True,
    use_absolute_position_embeddings=kind == "absolute",
  )
  model = randomised(transformers.BeitForMaskedImageModeling(config))
  backbone = TINY.clone(absolute_positions=kind == "absolute")
  network = MaskedImageModel(backbone, 16)
  params = exchanged(model, network, tmp_path)
  mask = np.random.default_rng(1).random((2, 16)) < 0.4
  want = model(PIXELS, bool_masked_pos=torch.from_numpy(mask)).logits
  found = jax.jit(network.apply)({"params": params}, IMAGES, mask)
  close(found, want)

  def loss(p):
    logits = network.apply({"params": p}, jnp.asarray(IMAGES), mask)
    return jnp.sin(logits).sum()

  torch.sin(want).sum().backward()
  grads = beit.to_transformers(jax.jit(jax.grad(loss))(params))
  theirs = dict(model.named_parameters())
  if "beit.shared_position_bias.relative_position_bias_table" in theirs:
    table = theirs["beit.shared_position_bias.relative_position_bias_table"]
    ours = grads["beit.encoder.relative_position_bias."
                 "relative_position_bias_table"]  # fmt: skip
    np.testing.assert_allclose(ours, table.grad, rtol=1e-3, atol=1e-3)


def test_classifier(tmp_path):
  config = transformers.BeitConfig(**SIZES, use_relative_position_bias=True)
  model = randomised(transformers.BeitForImageClassification(config))
  backbone = TINY.clone(relative_positions="per_block", mask_token=False)
  network = Classifier(backbone, 5)
  params = exchanged(model, network, tmp_path)
  close(
    jax.jit(network.apply)({"params": params}, IMAGES), model(PIXELS).logits
  )
  hidden = model.beit(PIXELS, output_hidden_states=True).hidden_states
  found = jax.jit(backbone.apply)({"params": params["backbone"]}, IMAGES)
  for ours, theirs in zip(found, hidden[1:], strict=True):
    close(ours, theirs)
  # As the release stores it: indices of positions are in the file.
  tensors = {
    name: torch.from_numpy(np.array(tensor))
    for name, tensor in beit.to_original(params).items()
  }
  index = torch.zeros(17, 17, dtype=torch.int64)
  tensors["blocks.0.attn.relative_position_index"] = index
  torch.save({"model": tensors}, tmp_path / "beit.pth")
  holds(tmp_path / "beit.pth", network, params)


def test_resized_positions():
  """Bicubic as torch.nn.functional.interpolate has it, corners not aligned."""
  rng = np.random.default_rng(0)
  old = rng.standard_normal((1, 1 + 4 * 6, 3), np.float32)
  grid = torch.from_numpy(old[:, 1:].reshape(1, 4, 6, 3)).permute(0, 3, 1, 2)
  for new in ((7, 9), (3, 4)):
    want = torch.nn.functional.interpolate(
      grid, size=new, mode="bicubic", align_corners=False
    )
    want = want.permute(0, 2, 3, 1).reshape(1, -1, 3).numpy()
    found = positions.resize_positions(old, (4, 6), new)
    np.testing.assert_allclose(found[:, 1:], want, atol=1e-5)
    np.testing.assert_array_equal(found[:, 0], old[:, 0])


def test_attention_weights(tmp_path):
  """Kept on request, of every block, with the same outputs; else not."""
  config = transformers.BeitConfig(
    **SIZES, use_relative_position_bias=True, attn_implementation="eager"
  )
  model = randomised(transformers.BeitForImageClassification(config))
  backbone = TINY.clone(relative_positions="per_block", mask_token=False)
  params = exchanged(model, Classifier(backbone, 5), tmp_path)
  network = Classifier(backbone.clone(remat=True), 5)
  want = model(PIXELS, output_attentions=True).attentions
  kept_too = partial(network.apply, mutable=["intermediates"])
  logits, kept = jax.jit(kept_too)({"params": params}, IMAGES)
  found = kept["intermediates"]["backbone"]
  assert len(want) == 3
  for i, theirs in enumerate(want):
    (ours,) = found[f"block_{i}"]["attn"]["weights"]
    assert ours.shape == (2, 4, 17, 17)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5)
  plain = jax.jit(network.apply)({"params": params}, IMAGES)
  np.testing.assert_allclose(plain, logits, rtol=1e-5, atol=1e-5)
  shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
  assert set(shapes) == {"params"}
