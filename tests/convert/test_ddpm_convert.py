import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.convert import ddpm
from jaxgen.convert.state import read_safetensors, write_safetensors
from jaxgen.nn.ddpm_unet import UNet

UNET = UNet(32, (1, 2), 1, attention_resolutions=(8,), dropout=0.0)
SIZE = 16

# The tensors of ermongroup/ddim's and pesser's networks, and diffusers' names
# for them, written out for two levels of one block.
BLOCK = {
  "norm1": "norm1",
  "conv1": "conv1",
  "temb_proj": "time_emb_proj",
  "norm2": "norm2",
  "conv2": "conv2",
}
SHORTCUT = BLOCK | {"nin_shortcut": "conv_shortcut"}
ATTENTION = {
  "norm": "group_norm",
  "q": "to_q",
  "k": "to_k",
  "v": "to_v",
  "proj_out": "to_out.0",
}
CONV = {"conv": "conv"}
SCOPES = {
  "down.0.block.0": ("down_blocks.0.resnets.0", BLOCK),
  "down.0.downsample": ("down_blocks.0.downsamplers.0", CONV),
  "down.1.block.0": ("down_blocks.1.resnets.0", SHORTCUT),
  "down.1.attn.0": ("down_blocks.1.attentions.0", ATTENTION),
  "mid.block_1": ("mid_block.resnets.0", BLOCK),
  "mid.attn_1": ("mid_block.attentions.0", ATTENTION),
  "mid.block_2": ("mid_block.resnets.1", BLOCK),
  "up.1.block.0": ("up_blocks.0.resnets.0", SHORTCUT),
  "up.1.block.1": ("up_blocks.0.resnets.1", SHORTCUT),
  "up.1.attn.0": ("up_blocks.0.attentions.0", ATTENTION),
  "up.1.attn.1": ("up_blocks.0.attentions.1", ATTENTION),
  "up.1.upsample": ("up_blocks.0.upsamplers.0", CONV),
  "up.0.block.0": ("up_blocks.1.resnets.0", SHORTCUT),
  "up.0.block.1": ("up_blocks.1.resnets.1", SHORTCUT),
}
ORIGINAL_TO_DIFFUSERS = {
  f"{ours}.{a}": f"{theirs}.{b}"
  for ours, (theirs, layers) in SCOPES.items()
  for a, b in layers.items()
} | {
  "temb.dense.0": "time_embedding.linear_1",
  "temb.dense.1": "time_embedding.linear_2",
  "conv_in": "conv_in",
  "norm_out": "conv_norm_out",
  "conv_out": "conv_out",
}


@pytest.fixture(scope="module")
def params():
  x = jnp.zeros((1, SIZE, SIZE, 3))
  template = jax.eval_shape(UNET.init, jax.random.key(0), x, jnp.zeros(1))
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape, np.float32),
    template["params"],
  )


@pytest.fixture
def state(params):
  return ddpm.to_diffusers(params, UNET)


def original(state):
  """The state with original names; q, k, v, proj_out as 1 x 1 convolutions."""
  out = {}
  for ours, theirs in ORIGINAL_TO_DIFFUSERS.items():
    for leaf in ("weight", "bias"):
      tensor = state[f"{theirs}.{leaf}"]
      if "attn" in ours and tensor.ndim == 2:
        tensor = tensor[:, :, None, None]
      out[f"{ours}.{leaf}"] = tensor
  return out


def old_names(state):
  """The names of the published google/ddpm-* files."""
  old = {"to_q": "query", "to_k": "key", "to_v": "value"}
  old["to_out.0"] = "proj_attn"
  out = {}
  for name, tensor in state.items():
    for new, was in old.items():
      name = name.replace(f".{new}.", f".{was}.")
    out[name] = tensor
  return out


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_names_are_those_of_the_fact_sheet(state):
  wanted = {
    f"{name}.{leaf}"
    for name in ORIGINAL_TO_DIFFUSERS.values()
    for leaf in ("weight", "bias")
  }
  assert set(state) == wanted


def test_layouts_of_pytorch(params, state):
  kernel = params["conv_in"]["kernel"]  # HWIO
  assert state["conv_in.weight"].shape == (32, 3, 3, 3)  # OIHW
  assert state["conv_in.weight"][5, 2, 0, 1] == kernel[0, 1, 2, 5]
  dense = params["temb_dense0"]["kernel"]
  assert state["time_embedding.linear_1.weight"][7, 3] == dense[3, 7]
  shortcut = state["up_blocks.1.resnets.1.conv_shortcut.weight"]
  assert shortcut.shape == (32, 64, 1, 1)


def test_every_layout_gives_the_same_parameters(params, state):
  assert_equal(ddpm.from_diffusers(state, UNET), params)
  assert_equal(ddpm.from_diffusers(old_names(state), UNET), params)
  assert_equal(ddpm.from_original(original(state), UNET), params)


def test_old_names_as_convolutions(params, state):
  state = {
    name: tensor[:, :, None, None]
    if "attentions" in name and tensor.ndim == 2
    else tensor
    for name, tensor in old_names(state).items()
  }
  assert_equal(ddpm.from_diffusers(state, UNET), params)


def test_save_then_load(tmp_path, params):
  ddpm.save(tmp_path, params, UNET, SIZE)
  unet, loaded = ddpm.load(tmp_path)
  assert unet == UNET
  assert_equal(loaded, params)


@pytest.mark.parametrize("layout", [dict, old_names, original])
def test_load_infers_the_network_from_shapes(tmp_path, params, state, layout):
  write_safetensors(tmp_path / "w.safetensors", layout(state))
  unet, loaded = ddpm.load(tmp_path / "w.safetensors", image_size=SIZE)
  assert unet == UNET
  assert_equal(loaded, params)
  # Without a size, the attention is at 16 x 16 as in the published models.
  unet, _ = ddpm.load(tmp_path / "w.safetensors")
  assert unet == dataclasses.replace(UNET, attention_resolutions=(16,))


def test_half_precision_becomes_float32(tmp_path, params, state):
  half = {name: tensor.astype(jnp.bfloat16) for name, tensor in state.items()}
  write_safetensors(tmp_path / "w.safetensors", half)
  _, loaded = ddpm.load(tmp_path / "w.safetensors", image_size=SIZE)
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {
    jnp.dtype("float32")
  }
  assert_equal(
    loaded, jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype("f4"), params)
  )


def test_faults_name_the_tensors(state):
  less = {k: v for k, v in state.items() if not k.startswith("mid_block.a")}
  with pytest.raises(ValueError, match=r"missing: mid_block.*and 7 more\.$"):
    ddpm.from_diffusers(less, UNET)
  with pytest.raises(ValueError, match=r"unused: ema\.decay\.$"):
    ddpm.from_diffusers(state | {"ema.decay": np.ones(1)}, UNET)
  bad = state | {"conv_out.weight": np.ones((3, 16, 3, 3), np.float32)}
  with pytest.raises(ValueError, match=r"conv_out.weight \(3, 16, 3, 3\)"):
    ddpm.from_diffusers(bad, UNET)
  with pytest.raises(ValueError, match=r"attention at levels \[1\]"):
    ddpm.from_diffusers(state, UNET.clone(attention_resolutions=()))
  with pytest.raises(ValueError, match="no patches"):
    ddpm.from_diffusers(state, UNET.clone(patch_size=2))


@pytest.mark.parametrize(
  ("option", "value"),
  [
    ("norm_eps", 1e-5),
    ("attention_head_dim", 8),
    ("up_block_types", ["UpBlock2D", "UpBlock2D"]),
    ("resnet_time_scale_shift", "scale_shift"),
    ("num_class_embeds", 10),
  ],
)
def test_config_of_another_network(tmp_path, params, option, value):
  ddpm.save(tmp_path, params, UNET, SIZE)
  config = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config | {option: value}))
  with pytest.raises(ValueError, match=f"has {option}"):
    ddpm.load(tmp_path)


def test_config_that_relies_on_other_defaults(tmp_path, params):
  ddpm.save(tmp_path, params, UNET, SIZE)
  config = json.loads((tmp_path / "config.json").read_text())
  del config["freq_shift"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=r"lacks freq_shift\.$"):
    ddpm.load(tmp_path)


def test_damaged_files(tmp_path, state):
  path = tmp_path / "w.safetensors"
  with pytest.raises(FileNotFoundError, match="no checkpoint file"):
    read_safetensors(path)
  write_safetensors(path, state)
  whole = path.read_bytes()
  for damaged in (whole[:-5], whole[:50], b"", b"PK\x03\x04" + whole):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
      read_safetensors(path)


def test_integers_are_no_weights(state):
  state = state | {"conv_in.bias": state["conv_in.bias"].astype(np.int64)}
  with pytest.raises(ValueError, match="bias holds int64, not floats"):
    ddpm.from_diffusers(state, UNET)


def test_save_checks_the_image_size(tmp_path, params):
  with pytest.raises(ValueError, match=r"attention at heights \[16\]"):
    ddpm.save(tmp_path, params, UNET, 32)
