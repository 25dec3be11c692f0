"""CLIP's text transformer and latent diffusion's text encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
from random_openai import random_state

from jaxgen.convert import clip, ldm_bert
from jaxgen.convert.state import write_safetensors
from jaxgen.nn.clip_text import ClipText
from jaxgen.nn.ldm_bert import LdmBert

STORED = np.load(Path(__file__).parents[1] / "data/ldm_bert.npz")
NETWORK = ClipText(20, 8, 2, 2, 12, max_length=5, end_token=19)
BERT = LdmBert(40, 48, 2, max_length=11)
IDS = np.arange(5)[None]


def assert_equal(a, b):
  assert sorted(a) == sorted(b)
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def clip_state(prefix="text_model."):
  """Names and shapes as transformers 4 wrote them (and its 5 still reads)."""
  shapes = {
    "embeddings.token_embedding.weight": (20, 8),
    "embeddings.position_embedding.weight": (5, 8),
    "final_layer_norm.weight": (8,),
    "final_layer_norm.bias": (8,),
  }
  for i in (0, 1):
    layers = {
      **{f"self_attn.{x}_proj": (8, 8) for x in ("q", "k", "v", "out")},
      **{"mlp.fc1": (12, 8), "mlp.fc2": (8, 12)},
      **{"layer_norm1": (8,), "layer_norm2": (8,)},
    }
    for layer, shape in layers.items():
      shapes[f"encoder.layers.{i}.{layer}.weight"] = shape
      shapes[f"encoder.layers.{i}.{layer}.bias"] = shape[:1]
  return {prefix + k: v for k, v in random_state(shapes).items()}


def bert_state():
  shapes = {}
  for line in STORED["shapes"]:
    name, shape = line.split(" ", 1)
    shapes[name] = tuple(int(n) for n in shape.strip("(,)").split(","))
  return random_state(shapes)


@pytest.mark.parametrize(
  "prefix",
  [
    *("text_model.", "", "cond_stage_model.transformer."),
    "cond_stage_model.transformer.text_model.",
  ],
)
def test_clip_goes_both_ways_under_every_prefix(prefix):
  state = clip_state(prefix)
  params = clip.from_transformers(state, NETWORK)
  assert_equal(clip.to_transformers(params, prefix), state)
  ids = {prefix + "embeddings.position_ids": IDS}
  again = clip.from_transformers(state | ids, NETWORK)
  assert_equal(clip.to_transformers(again), clip.to_transformers(params))


def test_layouts_of_pytorch():
  state = clip_state("")
  params = clip.from_transformers(state, NETWORK)
  tokens = params["token_embedding"]["embedding"]
  assert state["embeddings.token_embedding.weight"][7, 3] == tokens[7, 3]
  positions = params["position_embedding"]
  assert state["embeddings.position_embedding.weight"][4, 3] == positions[4, 3]
  dense = params["block_1"]["fc1"]["kernel"]
  assert state["encoder.layers.1.mlp.fc1.weight"][11, 3] == dense[3, 11]


def test_clip_files(tmp_path):
  state = clip_state()
  params = clip.from_transformers(state, NETWORK)
  clip.save(tmp_path, params, NETWORK)
  network, loaded = clip.load(tmp_path)
  assert network == NETWORK
  assert_equal(clip.to_transformers(loaded), state)
  _, loaded = clip.load(tmp_path / "model.safetensors", NETWORK)
  assert_equal(clip.to_transformers(loaded), state)

  torch = pytest.importorskip("torch")
  (tmp_path / "model.safetensors").unlink()
  with pytest.raises(
    FileNotFoundError, match=r"no checkpoint file .*model\.sa"
  ):
    clip.load(tmp_path)
  halves = {k: torch.from_numpy(x.copy()).half() for k, x in state.items()}
  ids = {"text_model.embeddings.position_ids": torch.from_numpy(IDS)}
  torch.save(halves | ids, tmp_path / "pytorch_model.bin")
  _, loaded = clip.load(tmp_path)
  for name, tensor in clip.to_transformers(loaded).items():
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor, state[name], rtol=1e-3, atol=1e-6)


def test_configurations(tmp_path):
  params = clip.from_transformers(clip_state(), NETWORK)
  clip.save(tmp_path, params, NETWORK)
  path = tmp_path / "config.json"
  good = json.loads(path.read_text())

  def configured(**changes):
    path.write_text(json.dumps(good | changes))
    return clip.configured(path)

  # Files before 2023 say 2, which transformers reads as the highest token.
  assert configured(eos_token_id=2) == NETWORK
  assert configured(eos_token_id=7).end_token == 7
  assert configured(hidden_act="gelu").activation == "gelu"
  with pytest.raises(ValueError, match=r"layer_norm_eps 1e-06, but CLIP's .*5"):
    configured(layer_norm_eps=1e-6)
  path.write_text('{"vocab_size": 5}')
  with pytest.raises(ValueError, match="lacks hidden_size, num_hidden"):
    clip.configured(path)
  path.write_text("{")
  with pytest.raises(ValueError, match=r"config\.json is not JSON"):
    clip.configured(path)
  with pytest.raises(FileNotFoundError, match=r"There is no file .*x\.json"):
    clip.configured(tmp_path / "x.json")


def test_clip_faults_name_the_tensors():
  state = clip_state()
  with pytest.raises(ValueError, match=r"has no text_model\.embeddings\.token"):
    clip.from_transformers({}, NETWORK)
  with pytest.raises(ValueError, match=r"unused: logit_scale\.$"):
    clip.from_transformers(state | {"logit_scale": np.ones(1)}, NETWORK)
  less = {k: v for k, v in state.items() if "layers.1" not in k}
  with pytest.raises(
    ValueError, match=r"missing: text_model\.enc.* 13 more\.$"
  ):
    clip.from_transformers(less, NETWORK)
  ids = {"text_model.embeddings.position_ids": IDS[:, ::-1]}
  with pytest.raises(ValueError, match="position_ids are not 0 to 4"):
    clip.from_transformers(state | ids, NETWORK)
  with pytest.raises(ValueError, match=r"token_embedding.weight \(20, 8\)"):
    clip.from_transformers(state, NETWORK.clone(vocab_size=21))


@pytest.mark.parametrize("prefix", ["", "cond_stage_model.transformer."])
def test_bert_goes_both_ways(prefix):
  """The names and shapes are the original's; the unused head is left out."""
  state = {prefix + k: v for k, v in bert_state().items()}
  back = ldm_bert.to_original(ldm_bert.from_original(state, BERT), prefix)
  head = {f"{prefix}to_logits.{leaf}" for leaf in ("weight", "bias")}
  assert set(state) - set(back) == head
  assert_equal(back, {k: v for k, v in state.items() if k not in head})


def test_bert_files(tmp_path):
  state = bert_state()
  params = ldm_bert.from_original(state, BERT)
  whole = {f"cond_stage_model.transformer.{k}": v for k, v in state.items()}
  whole["model.diffusion_model.out.2.bias"] = np.ones(3, np.float32)
  for name, content in (("encoder", state), ("model", whole)):
    write_safetensors(tmp_path / f"{name}.safetensors", content)
    loaded = ldm_bert.load(tmp_path / f"{name}.safetensors", BERT)
    assert_equal(ldm_bert.to_original(loaded), ldm_bert.to_original(params))
  with pytest.raises(ValueError, match=r"unused: attn_layers\.layers\.2"):
    ldm_bert.from_original(state, BERT.clone(num_layers=1))
