from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_ldm import CASES, twin
from random_openai import random_state

from jaxgen.convert import ldm_unet
from jaxgen.nn.ldm_unet import UNet

STORED = np.load(Path(__file__).parents[1] / "data/ldm_unet.npz")
# SD1's levels and blocks, narrow.
SD1 = UNet(32, num_heads=2, context_dim=6)

# CompVis' scopes and diffusers', for SD1's levels and blocks.
DIFFUSERS = {
  "time_embed.0": "time_embedding.linear_1",
  "input_blocks.0.0": "conv_in",
  "input_blocks.3.0.op": "down_blocks.0.downsamplers.0.conv",
  "input_blocks.4.0.skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
  "input_blocks.4.1.transformer_blocks.0.attn2.to_k": (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
  ),
  "input_blocks.11.0.in_layers.0": "down_blocks.3.resnets.1.norm1",
  "middle_block.0.emb_layers.1": "mid_block.resnets.0.time_emb_proj",
  "middle_block.1.proj_in": "mid_block.attentions.0.proj_in",
  "middle_block.2.out_layers.3": "mid_block.resnets.1.conv2",
  "output_blocks.2.1.conv": "up_blocks.0.upsamplers.0.conv",
  "output_blocks.5.2.conv": "up_blocks.1.upsamplers.0.conv",
  "output_blocks.9.1.transformer_blocks.0.ff.net.0.proj": (
    "up_blocks.3.attentions.0.transformer_blocks.0.ff.net.0.proj"
  ),
  "output_blocks.11.1.transformer_blocks.0.attn1.to_out.0": (
    "up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_out.0"
  ),
  "output_blocks.11.0.in_layers.2": "up_blocks.3.resnets.2.conv1",
  "out.0": "conv_norm_out",
  "out.2": "conv_out",
}


def original_state(name):
  lines = (line.split(" ", 1) for line in STORED[f"{name}/shapes"])
  return random_state(
    {k: [int(n) for n in s.strip("(,)").split(",")] for k, s in lines}
  )


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def params():
  x, context = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 1, 6))
  shapes = jax.eval_shape(SD1.init, jax.random.key(0), x, 0, context)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes["params"]
  )


@pytest.fixture(scope="module")
def hybrid():
  return original_state("hybrid")


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_goes_both_ways(name):
  """The names and shapes are the original's, the round trip is exact."""
  state, network = original_state(name), twin(name)
  back = ldm_unet.to_original(ldm_unet.from_original(state, network), network)
  assert_equal(back, state)


def test_both_layouts_hold_the_same(params):
  original = ldm_unet.to_original(params, SD1)
  diffusers = ldm_unet.to_diffusers(params, SD1)
  assert len(original) == len(diffusers) == 686  # as SD1 has
  for ours, theirs in DIFFUSERS.items():
    np.testing.assert_array_equal(
      original[f"{ours}.weight"], diffusers[f"{theirs}.weight"]
    )
    assert (f"{ours}.bias" in original) == (f"{theirs}.bias" in diffusers)
  assert_equal(ldm_unet.from_diffusers(diffusers, SD1), params)


def test_layouts_of_pytorch(params):
  state = ldm_unet.to_original(params, SD1)
  dense = params["down_1_attn_0"]["block_0"]["attn2"]["to_k"]["kernel"]
  name = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
  assert state[name].shape == (64, 6)
  assert state[name][9, 4] == dense[4, 9]
  assert state["input_blocks.4.1.proj_in.weight"].shape == (64, 64, 1, 1)


def test_network_of_a_whole_model(hybrid):
  averages = {k: -x for k, x in hybrid.items()}
  checkpoint = {f"model.diffusion_model.{k}": x for k, x in hybrid.items()}
  checkpoint |= {
    f"model_ema.diffusion_model{k.replace('.', '')}": x
    for k, x in averages.items()
  }
  checkpoint |= {"betas": np.ones(3), "model_ema.decay": np.float32(0.9999)}
  assert_equal(ldm_unet.unet_state(checkpoint), hybrid)
  assert_equal(ldm_unet.unet_state(checkpoint, ema=True), averages)
  name = "model.diffusion_model.out.2.bias"
  assert ldm_unet.ema_name(name) == "model_ema.diffusion_modelout2bias"
  with pytest.raises(ValueError, match=r"have averages, not first_stage_m"):
    ldm_unet.ema_name("first_stage_model.loss.logvar")
  del checkpoint[ldm_unet.ema_name(name)]
  with pytest.raises(ValueError, match=r"averages of 1 of its 425 tensors, fi"):
    ldm_unet.unet_state(checkpoint, ema=True)
  with pytest.raises(ValueError, match=r"no tensors under model\.diffusion_m"):
    ldm_unet.unet_state(hybrid)


def test_averages_have_names_of_their_own(params):
  names = [ldm_unet.PREFIX + k for k in ldm_unet.to_original(params, SD1)]
  assert len({ldm_unet.ema_name(name) for name in names}) == len(names)


def test_faults_name_the_tensors():
  network = UNet(32, (1,), 1, (), context_dim=6, concat_channels=5)
  network = network.clone(num_classes=3)
  context, concat = jnp.zeros((1, 1, 6)), jnp.zeros((1, 1, 1, 5))
  x = jnp.zeros((1, 1, 1, 4))
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), x, 0, context, concat, 0
  )["params"]
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
  tiny = ldm_unet.to_original(zeros, network)
  less = {k: v for k, v in tiny.items() if not k.startswith("middle_block.1")}
  with pytest.raises(ValueError, match=r"missing: middle_b.* more\.$"):
    ldm_unet.from_original(less, network)
  with pytest.raises(ValueError, match=r"unused: step\.$"):
    ldm_unet.from_original(tiny | {"step": np.ones(1)}, network)
  with pytest.raises(ValueError, match=r"unused: label_emb\.weight\.$"):
    ldm_unet.from_original(tiny, network.clone(num_classes=None))
  with pytest.raises(ValueError, match=r"input_blocks.0.0.weight \(32, 9"):
    ldm_unet.from_original(tiny, network.clone(concat_channels=0))
  with pytest.raises(ValueError, match=r"missing: .*\.qkv\."):
    ldm_unet.from_original(tiny, network.clone(context_dim=None))


@pytest.mark.parametrize("name", ["churches"])
def test_networks_that_diffusers_lacks(name):
  with pytest.raises(
    ValueError, match=r"got context_dim None, resblock_up.* T"
  ):
    ldm_unet.to_diffusers({}, twin(name))
  with pytest.raises(ValueError, match=r"and scale_shift_norm True\.$"):
    ldm_unet.from_diffusers({}, twin(name))
