"""BEiT's checkpoints, and positions at other sizes."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxgen.convert import beit, beit_files, positions
from jaxgen.convert.state import write_safetensors
from jaxgen.nn.beit import Beit, Classifier, MaskedImageModel

TINY = Beit(8, 32, 2, 4, 64, absolute_positions=True)
NETWORKS = {
  "mim": MaskedImageModel(TINY, 16),
  "classifier": Classifier(
    TINY.clone(relative_positions="per_block", mask_token=False), 5
  ),
  "plain": MaskedImageModel(
    TINY.clone(relative_positions="none", layer_scale=None), 16
  ),
}


def params_of(network, size=32):
  x = np.zeros((1, size, size, 3), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
  leaves, structure = jax.tree.flatten(shapes)
  rng = np.random.default_rng(0)
  return structure.unflatten(
    rng.standard_normal(leaf.shape, np.float32) for leaf in leaves
  )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_round_trip(name, layout):
  network = NETWORKS[name]
  params = params_of(network)
  state = getattr(beit, f"to_{layout}")(params)
  back = getattr(beit, f"from_{layout}")(state, network, 32)
  want, found = flatten_dict(params), flatten_dict(back)
  assert want.keys() == found.keys()
  for path, leaf in want.items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=str(path))
  lost = sorted(state)[3]
  with pytest.raises(ValueError, match="missing: "):
    getattr(beit, f"from_{layout}")(
      {k: v for k, v in state.items() if k != lost}, network, 32
    )
  with pytest.raises(ValueError, match="unused: extra"):
    getattr(beit, f"from_{layout}")(
      state | {"extra": np.zeros(1, np.float32)}, network, 32
    )


def test_the_released_names():
  """Some names and shapes of microsoft/unilm's BEiT."""
  state = beit.to_original(params_of(NETWORKS["mim"]))
  shapes = {name: x.shape for name, x in state.items()}
  assert shapes["cls_token"] == shapes["mask_token"] == (1, 1, 32)
  assert shapes["pos_embed"] == (1, 17, 32)
  assert shapes["patch_embed.proj.weight"] == (32, 3, 8, 8)
  assert shapes["rel_pos_bias.relative_position_bias_table"] == (52, 4)
  assert shapes["blocks.1.attn.qkv.weight"] == (96, 32)
  assert shapes["blocks.1.attn.q_bias"] == (32,)
  assert shapes["blocks.0.mlp.fc1.weight"] == (64, 32)
  assert shapes["blocks.0.gamma_1"] == (32,)
  assert shapes["lm_head.weight"] == (16, 32)
  tuned = beit.to_original(params_of(NETWORKS["classifier"]))
  assert {"fc_norm.weight", "head.bias"} < set(tuned)
  assert "blocks.0.attn.relative_position_bias_table" in tuned


def test_the_originals_geometric_places():
  """q of the released code, 14 patches a side to 24, 32 and 40."""
  for new, q in ((24, 1.0903074), (32, 1.1349178), (40, 1.1685036)):
    places = positions._geometric_places(27, 2 * new - 1)
    np.testing.assert_allclose(places[14:16], [1, 1 + q], atol=2e-6)
    np.testing.assert_allclose(places[-1], new - 1, atol=1e-3)
    np.testing.assert_array_equal(places, -places[::-1])


def test_a_resized_table():
  rng = np.random.default_rng(0)
  table = rng.standard_normal((9**2 + 3, 2))
  found = positions.resize_bias_table(table, 5, 7)
  assert found.shape == (13**2 + 3, 2)
  np.testing.assert_array_equal(found[-3:], table[-3:])
  centre = found[:-3].reshape(13, 13, 2)[5:8, 5:8]
  np.testing.assert_allclose(  # distances 0 and 1 keep their biases
    centre, table[:-3].reshape(9, 9, 2)[3:6, 3:6], atol=1e-9
  )
  # A cubic polynomial of the places is kept everywhere.
  places = positions._geometric_places(9, 13)
  cubic = lambda y, x: 1 + y - 0.3 * x**3 + 0.1 * y**2 * x
  table[:-3, 0] = cubic(places[:, None], places).ravel()
  found = positions.resize_bias_table(table, 5, 7)[:-3, 0].reshape(13, 13)
  d = np.arange(-6, 7)
  np.testing.assert_allclose(found, cubic(d[:, None], d), atol=1e-3)
  np.testing.assert_array_equal(positions.resize_bias_table(table, 5, 5), table)


def test_fine_tuning_starts_from_copies_of_the_shared_biases():
  old = TINY
  new = TINY.clone(relative_positions="per_block", mask_token=False)
  params = params_of(MaskedImageModel(old, 16))["backbone"]
  found = beit.adapt_backbone(params, old, new, 32, 48)
  wanted = params_of(Classifier(new, 5), 48)["backbone"]
  assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, wanted)
  table = positions.resize_bias_table(params["relative_bias"]["table"], 4, 6)
  for i in range(2):
    np.testing.assert_array_equal(
      found[f"block_{i}"]["relative_bias"]["table"], table
    )
  np.testing.assert_array_equal(found["cls_token"], params["cls_token"])
  assert "mask_token" in params


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r"52 rows, got shape \(51, 2\)"):
    positions.resize_bias_table(np.zeros((51, 2)), 4, 6)
  with pytest.raises(ValueError, match=r"\(1, 17, C\), got \(1, 16, 8\)"):
    positions.resize_positions(np.zeros((1, 16, 8)), (4, 4), (6, 6))
  plain = NETWORKS["plain"].backbone
  with pytest.raises(ValueError, match="cannot make relative_positions"):
    beit.adapt_backbone({}, plain, TINY, 32, 32)
  with pytest.raises(ValueError, match="one width, got 32 and 64"):
    beit.adapt_backbone({}, TINY, TINY.clone(width=64), 32, 32)


@pytest.mark.parametrize("name", [*NETWORKS, "by_class_token"])
@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_a_file_tells_its_network(name, layout, tmp_path):
  """All but initial values: sizes, positions, gammas and the pooling."""
  networks = NETWORKS | {
    "by_class_token": Classifier(
      TINY.clone(absolute_positions=False, mask_token=False), 5, False
    )
  }
  network = networks[name]
  if name == "plain":  # heads of 64 channels, which nothing else tells
    wide = network.backbone.clone(width=128, num_heads=2)
    network = network.clone(backbone=wide)
  params = params_of(network)
  state = getattr(beit, f"to_{layout}")(params)
  path = tmp_path / "model.safetensors"
  write_safetensors(path, state)
  found, back, size = beit_files.read(tmp_path)
  assert (found, size) == (network, 32)
  jax.tree.map(np.testing.assert_array_equal, back, params)
  assert beit_files.read(path)[0] == network


def test_other_files_are_refused(tmp_path):
  path = tmp_path / "model.safetensors"
  write_safetensors(path, {"weight": np.zeros(3, np.float32)})
  with pytest.raises(ValueError, match="holds no BEiT: it has no 'cls_token'"):
    beit_files.read(path)
  with pytest.raises(FileNotFoundError, match="nor a folder with model"):
    beit_files.read(tmp_path / "absent")
  (tmp_path / "empty").mkdir()
  with pytest.raises(FileNotFoundError, match="is no checkpoint file"):
    beit_files.read(tmp_path / "empty")
  params = params_of(NETWORKS["plain"])
  state = beit.to_original(params)
  del state["pos_embed"]
  write_safetensors(path, state)
  with pytest.raises(ValueError, match="neither positions nor their biases"):
    beit_files.read(path)
