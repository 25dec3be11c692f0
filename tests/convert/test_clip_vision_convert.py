"""CLIP's vision transformer: files, and parity with transformers."""

import json

import jax
import numpy as np
import pytest

from jaxgen.convert import clip_vision
from jaxgen.convert.state import read_safetensors
from jaxgen.convert.torch_files import read_script_state, read_torch
from jaxgen.nn.clip_vision import CLIP_VISIONS, ClipVision

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = ClipVision(8, 128, 2, 2, 256, 12)
SIZES = {
  "hidden_size": 128,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 256,
  "image_size": 32,
  "patch_size": 8,
}
IMAGES = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
PIXELS = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())


def randomised(model):
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for p in model.parameters():
      p.copy_(0.2 * torch.randn(p.shape, generator=generator))
  return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """transformers' model, and the directory that it saves."""
  config = transformers.CLIPVisionConfig(**SIZES, projection_dim=12)
  model = randomised(transformers.CLIPVisionModelWithProjection(config))
  path = tmp_path_factory.mktemp("clip")
  model.save_pretrained(path)
  return model, path


def close(found, want):
  want = want.detach().numpy()
  error = np.linalg.norm(found - want) / np.linalg.norm(want)
  assert error < 1e-5, error


def test_transformers_model(folder):
  model, path = folder
  network, params = clip_vision.load(path)
  assert network == TINY
  found = jax.jit(network.apply)({"params": params}, IMAGES)
  want = model(PIXELS)
  close(found.pooled, want.image_embeds)
  norm, projection = model.vision_model.post_layernorm, model.visual_projection
  close(found.patches, projection(norm(want.last_hidden_state[:, 1:])))
  state = read_safetensors(path / "model.safetensors")
  back = clip_vision.to_transformers(params)
  assert back.keys() == state.keys()
  for name, tensor in state.items():
    np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_a_whole_clip(tmp_path):
  """Of texts and images; what belongs to texts is left out."""
  text = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 5,
  }
  config = transformers.CLIPConfig(
    text_config=text, vision_config=SIZES, projection_dim=12
  )
  model = randomised(transformers.CLIPModel(config))
  model.save_pretrained(tmp_path)
  network, params = clip_vision.load(tmp_path)
  assert network == TINY
  names = set(clip_vision.to_transformers(params))
  of_texts = set(model.state_dict()) - names
  assert all(name.startswith(("text_", "logit")) for name in of_texts)
  assert names < set(model.state_dict())
  config = json.loads((tmp_path / "config.json").read_text())
  config["vision_config"]["layer_norm_eps"] = 1e-6
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="layer_norm_eps 1e-06, but CLIP's"):
    clip_vision.load(tmp_path)


class Nested(torch.nn.Module):
  """A module with the parameters of a state dictionary, to be scripted."""

  def __init__(self, state):
    super().__init__()
    for name, tensor in state.items():
      head, _, rest = name.partition(".")
      if not rest:
        self.register_parameter(head, torch.nn.Parameter(tensor))
      elif head not in self._modules:
        inner = {
          n.removeprefix(head + "."): t
          for n, t in state.items()
          if n.startswith(head + ".")
        }
        self.add_module(head, Nested(inner))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return x


def test_a_program_is_read_as_data(folder, tmp_path):
  """OpenAI's files: TorchScript, its weights in half precision."""
  _, directory = folder
  _, params = clip_vision.load(directory)
  original = clip_vision.to_original(params)
  assert {name.split(".")[0] for name in original} == {"visual"}
  halves = {
    name: torch.from_numpy(x.copy()).half() for name, x in original.items()
  }
  texts = {"token_embedding.weight": torch.zeros(3, 2)}
  path = tmp_path / "ViT-tiny.pt"
  torch.jit.script(Nested(halves | texts)).save(str(path))
  with pytest.raises(ValueError, match="TorchScript program, not a saved"):
    read_torch(path)
  network, found = clip_vision.load(path)
  assert network == TINY
  for name, tensor in clip_vision.to_original(found).items():
    want = halves[name].float().numpy()
    np.testing.assert_array_equal(tensor, want, err_msg=name)
  torch.save(halves, tmp_path / "state.pt")
  _, again = clip_vision.load(tmp_path / "state.pt")
  jax.tree.map(np.testing.assert_array_equal, again, found)
  with pytest.raises(ValueError, match="is no TorchScript program"):
    read_script_state(tmp_path / "state.pt")


def test_what_is_no_vision_transformer(tmp_path):
  state = {"visual.layer1.0.conv1.weight": torch.zeros(2, 2, 1, 1)}
  torch.save(state, tmp_path / "RN50.pt")
  with pytest.raises(ValueError, match=r"no visual\.proj: not a vision"):
    clip_vision.load(tmp_path / "RN50.pt")
  with pytest.raises(ValueError, match=r"position_embedding\.weight: not CLIP"):
    clip_vision.from_transformers({}, TINY)
  with pytest.raises(FileNotFoundError, match="There is no checkpoint file"):
    clip_vision.load(tmp_path / "absent.pt")
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(FileNotFoundError, match=r"file .*model\.safetensors"):
    clip_vision.load(tmp_path)
  assert (
    clip_vision.configured(tmp_path / "config.json") == CLIP_VISIONS["vit_b_32"]
  )
