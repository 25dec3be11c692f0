from pathlib import Path

import jax
import numpy as np
import pytest
from random_openai import CASES, CLASSIFIER_CASES, random_state, twin

from jaxgen.convert import openai
from jaxgen.convert.state import write_safetensors

STORED = np.load(Path(__file__).parents[1] / "data/openai_unet.npz")
SMALL = "adm_half_upsample"


def original_shapes(name):
  """Of the original's tensors, in text: "name (3, 4)"."""
  pairs = (line.split(" ", 1) for line in STORED[f"{name}_shapes"])
  return {
    k: tuple(int(n) for n in shape.strip("(,)").split(","))
    for k, shape in pairs
  }


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def state():
  return random_state(original_shapes(SMALL))


@pytest.mark.parametrize("name", [*CASES, *CLASSIFIER_CASES])
def test_every_tensor_goes_both_ways(name):
  """The names and shapes are the original's, the round trip is exact."""
  state = random_state(original_shapes(name))
  network = twin(name)
  back = openai.to_original(openai.from_original(state, network), network)
  assert_equal(back, state)


def test_layouts_of_pytorch(state):
  params = openai.from_original(state, twin(SMALL))
  kernel = params["conv_in"]["kernel"]  # HWIO
  assert state["input_blocks.0.0.weight"][5, 2, 0, 1] == kernel[0, 1, 2, 5]
  dense = params["temb_dense0"]["kernel"]
  assert state["time_embed.0.weight"][7, 3] == dense[3, 7]
  qkv = params["mid_attn_1"]["qkv"]["kernel"]
  assert state["middle_block.1.qkv.weight"][9, 4, 0] == qkv[4, 9]
  np.testing.assert_array_equal(
    params["label_emb"]["embedding"], state["label_emb.weight"]
  )


def test_files(tmp_path, state):
  network = twin(SMALL)
  params = openai.from_original(state, network)
  write_safetensors(tmp_path / "model.safetensors", state)
  loaded_network, loaded = openai.load(tmp_path / "model.safetensors", network)
  assert loaded_network == network
  assert_equal(loaded, params)

  torch = pytest.importorskip("torch")
  tensors = {k: torch.from_numpy(x.copy()) for k, x in state.items()}
  torch.save(tensors, tmp_path / "ema_0.9999_500000.pt")
  _, loaded = openai.load(tmp_path / "ema_0.9999_500000.pt", network)
  assert_equal(loaded, params)


def test_released_files_are_known_by_name(tmp_path, state):
  assert len(openai.MARCH_2021) == 8
  assert len(openai.JUL_2021) == 15
  for name in ("lsun_cat.pt", "cifar10_uncond_50M_500K.safetensors"):
    path = tmp_path / name
    write_safetensors(path, state)  # of another network
    if path.suffix == ".pt":
      with pytest.raises(ValueError, match="begins like another kind of file"):
        openai.load(path)
    else:
      with pytest.raises(ValueError, match="does not fit the network's"):
        openai.load(path)
  write_safetensors(tmp_path / "mine.safetensors", state)
  with pytest.raises(ValueError, match=r"called mine.pt: load needs its netw"):
    openai.load(tmp_path / "mine.safetensors")


def test_faults_name_the_tensors(state):
  network = twin(SMALL)
  less = {k: v for k, v in state.items() if not k.startswith("middle_block.1")}
  with pytest.raises(ValueError, match=r"missing: middle_b.*and 3 more\.$"):
    openai.from_original(less, network)
  with pytest.raises(ValueError, match=r"unused: step\.$"):
    openai.from_original(state | {"step": np.ones(1)}, network)
  bad = state | {"out.2.weight": np.ones((3, 64, 3, 3), np.float32)}
  with pytest.raises(ValueError, match=r"out.2.weight \(3, 64, 3, 3\)"):
    openai.from_original(bad, network)
  with pytest.raises(ValueError, match=r"unused: label_emb\.weight\.$"):
    openai.from_original(state, network.clone(num_classes=None))
  with pytest.raises(ValueError, match=r"attention at levels \[1\]"):
    openai.from_original(state, network.clone(attention_resolutions=()))
  with pytest.raises(ValueError, match=r"no input_blocks\.0\.0\.weight"):
    openai.from_original({}, network)
